//! What the documents quote from the log is what the program says.

use std::collections::HashMap;

use crate::house::{modules, read};

/// Messages of the server, the kernel and other programs, and a misspelt option.
const FOREIGN: [&str; 8] = [
    "Failed to read 'ready",
    "Address already in use",
    "No space left on device",
    "Process completed with error",
    "was aborted",
    "Application received wrong state",
    "Will never receive state",
    "lannes",
];

/// Stands for a value, and for whatever else no message of ours contains.
const GAP: &str = "";

/// The words of a text, in lower case; values, and what ends a phrase, become a [`GAP`].
fn words(text: &str) -> Vec<String> {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "s"];
    let mut words = Vec::new();
    for token in text.split_whitespace() {
        let word = token.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let plain = word.chars().all(|c| c.is_ascii_alphabetic() || c == '\'' || c == '-');
        let name = word.len() == 1 && word != "a";
        if plain && !word.is_empty() && !name && !UNITS.contains(&word) {
            let (before, after) = token.split_once(word).unwrap_or_default();
            words.extend((!before.is_empty()).then(|| GAP.to_owned()));
            words.push(word.to_lowercase());
            words.extend((!after.is_empty()).then(|| GAP.to_owned()));
        } else {
            words.push(GAP.to_owned());
        }
    }
    words
}

/// All that the program may say: its code, in words; what stands for a value is a gap.
fn said() -> Vec<String> {
    let mut code: String = modules().into_values().collect::<Vec<_>>().join("\n");
    code += &read("scripts/wsrep_sst_highline");
    let code = code.replace("\\\n", " ").replace("\\\"", "\"");
    let letters: String = code
        .chars()
        .map(|c| if c.is_ascii_alphabetic() || c.is_whitespace() || "'-".contains(c) { c } else { ' ' })
        .collect();
    letters.split_whitespace().map(|word| word.trim_matches(['\'', '-']).to_lowercase()).collect()
}

/// Quotes of a page: log lines in its examples, the first column of its tables of messages, and phrases between backticks.
fn quotes(page: &str) -> Vec<String> {
    let mut quotes = Vec::new();
    let (mut example, mut prose) = (false, String::new());
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            example = !example;
        } else if example {
            let told = ["Highline donor: ", "Highline joiner: "].iter().find_map(|side| line.split_once(side));
            quotes.extend(told.map(|(_, told)| told).or_else(|| line.strip_prefix("highline: ")).map(str::to_owned));
        } else {
            prose.extend([line, "\n"]);
        }
    }
    let phrase = |text: &&str| {
        let command =
            text.starts_with("highline ") || text.contains("--") || text.contains(['=', '|', '$', '~', '_', '/']);
        text.split_whitespace().count() >= 4
            && !command
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '…')
    };
    quotes.extend(prose.split('`').skip(1).step_by(2).filter(phrase).map(str::to_owned));
    quotes
}

#[test]
fn what_the_documents_quote_is_what_the_program_says() {
    let said = said();
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    said.iter().enumerate().for_each(|(at, word)| places.entry(word).or_default().push(at));
    // How many words at the beginning of `run` are said one after the other.
    let together = |run: &[String]| {
        let from = run.first().and_then(|word| places.get(word.as_str())).into_iter().flatten();
        from.map(|at| said[*at..].iter().zip(run).take_while(|(one, other)| one == other).count()).max().unwrap_or(0)
    };
    let (mut count, mut unknown) = (0, Vec::new());
    for page in [
        "README.md",
        "docs/galera.md",
        "docs/status.md",
        "docs/containers.md",
        "docs/what-travels.md",
        "docs/under-the-freeze.md",
    ] {
        for quote in quotes(&read(page)) {
            if FOREIGN.iter().any(|foreign| quote.contains(foreign)) {
                continue;
            }
            count += 1;
            for run in words(&quote).split(|word| word == GAP) {
                let mut rest = run;
                while !rest.is_empty() {
                    let length = together(rest);
                    let value = ["highline", "donor", "joiner", "pin"].contains(&rest[0].as_str());
                    if length == 0 || (length == 1 && run.len() > 2 && !value) {
                        unknown.push(format!("{page}: `{quote}`, at {:?}", rest[0]));
                        break;
                    }
                    rest = &rest[length..];
                }
            }
        }
    }
    assert!(unknown.is_empty(), "no message reads like that:\n{}", unknown.join("\n"));
    assert!(count > 100, "{count}");
}
