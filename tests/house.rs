//! The rules of the house that a compiler does not check: arrows between rooms point down the list in `src/lib.rs`, no
//! two modules import each other, directly or through others, and `docs/architecture.md` says what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the project.
pub(super) fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A file's text up to its tests.
fn before_tests(text: &str) -> &str {
    let ends = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(super) mod tests {"];
    ends.iter().fold(text, |text, end| text.split(end).next().unwrap())
}

/// Every file beneath a folder.
fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

/// Every module of the library by its path, `sst::options::files`, with its code up to its tests.
pub(super) fn modules() -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&source, &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let name = file.strip_prefix(&source).unwrap().with_extension("");
        let mut parts: Vec<&str> = name.iter().map(|part| part.to_str().unwrap()).collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        let last = *parts.last().unwrap();
        if ["lib", "main", "fuzzing", "testing"].contains(&last) || last.ends_with("tests") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = before_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        modules.insert(parts.join("::"), code.join("\n"));
    }
    assert!(modules.len() > 100, "{}", modules.len());
    modules
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expanded(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.trim().to_owned()] };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in inner.chars() {
        match c {
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items.iter().flat_map(|item| expanded(&format!("{}{}", before.trim(), item.trim()))).collect()
}

/// The modules that one imports from, except its own parents and children, which are its face and its parts.
fn imports(module: &str, code: &str, all: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for statement in code.split("use ").skip(1).filter_map(|rest| rest.split_once(';')).map(|(path, _)| path) {
        for path in expanded(&statement.replace('\n', " ")) {
            let mut base: Vec<&str> = module.split("::").collect();
            let mut parts: Vec<&str> = path.split(" as ").next().unwrap().split("::").map(str::trim).collect();
            match parts.first() {
                Some(&"crate") => base.clear(),
                Some(&"super") => {}
                _ => continue,
            }
            while parts.first() == Some(&"super") {
                base.pop();
                parts.remove(0);
            }
            base.extend(parts.iter().filter(|part| **part != "crate"));
            while !base.is_empty() && !all.contains_key(&base.join("::")) {
                base.pop();
            }
            let target = base.join("::");
            let family = |a: &str, b: &str| a == b || a.starts_with(&format!("{b}::"));
            if !target.is_empty() && !family(&target, module) && !family(module, &target) {
                found.insert(target);
            }
        }
    }
    found
}

#[test]
fn no_module_imports_itself_through_others() {
    let modules = modules();
    let mut open: BTreeMap<&str, BTreeSet<String>> =
        modules.iter().map(|(name, code)| (name.as_str(), imports(name, code, &modules))).collect();
    assert!(open.values().map(BTreeSet::len).sum::<usize>() > 300, "few imports were found");
    // Whoever imports nothing that is left cannot be in a circle.
    loop {
        let left: BTreeSet<String> = open.keys().map(|name| (*name).to_owned()).collect();
        let before = open.len();
        open.retain(|_, imports| imports.iter().any(|import| left.contains(import)));
        if open.len() == before {
            break;
        }
    }
    // Nor whatever nobody imports.
    loop {
        let imported: BTreeSet<String> = open.values().flatten().cloned().collect();
        let before = open.len();
        open.retain(|name, _| imported.contains(*name));
        if open.len() == before {
            break;
        }
    }
    assert!(open.is_empty(), "a circle among {:?}", open.keys().collect::<Vec<_>>());
}

#[test]
fn arrows_between_rooms_point_down_the_list() {
    let list = read("src/lib.rs");
    let rooms: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .filter_map(|line| line.trim_start_matches('[').strip_prefix('`')?.split('`').next())
        .collect();
    assert!(rooms.len() > 15 && rooms.contains(&"threads"), "{rooms:?}");
    let line = |room: &str| rooms.iter().position(|known| *known == room);
    let mut arrows = 0;
    for (module, code) in modules() {
        let room = module.split("::").next().unwrap();
        let here = line(room).unwrap_or_else(|| panic!("{room} is not in the list"));
        for target in code.split("crate::").skip(1) {
            let target: String = target.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if let Some(there) = line(&target) {
                assert!(here <= there, "{module} uses {target}, which is above it");
                arrows += 1;
            }
        }
    }
    assert!(arrows > 300, "{arrows}");
}

#[test]
fn files_of_one_folder_import_each_other_by_super() {
    let modules = modules();
    for (module, code) in &modules {
        let beneath = format!("{module}::");
        let is_folder = modules.keys().any(|other| other.starts_with(&beneath));
        let folder = if is_folder { Some(module.as_str()) } else { module.rsplit_once("::").map(|(folder, _)| folder) };
        let Some(folder) = folder else { continue };
        let path = format!("use crate::{folder}::");
        assert!(!code.contains(&path), "src/{module}: `{path}…` is in the same folder: `use super::…`");
        assert!(!code.contains("super::super::"), "src/{module}: beyond its folder a path begins with `crate::`");
    }
}

/// A Galera log prints what these rooms say, and there nobody has typed a flag.
#[test]
fn what_both_front_ends_say_names_a_flag_only_by_hand() {
    const ROOMS: [&str; 8] = ["donor", "joiner", "install", "link", "archive", "wire", "manifest", "tree"];
    let mut seen = 0;
    for (module, code) in modules() {
        if !ROOMS.contains(&module.split("::").next().unwrap()) {
            continue;
        }
        // A sentence may continue on the next line.
        let text = code.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
        for (at, _) in
            text.match_indices("--").filter(|(at, _)| text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()))
        {
            let before: String = text[..at].chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
            let after: String = text[at..].chars().take(40).collect();
            let told = before.contains("by hand") || after.contains("by hand") || before.contains("highline ");
            assert!(told, "src/{module}: {before}{after}");
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}

/// Whether a module is this one, or in it.
fn within(module: &str, home: &str) -> bool {
    module.strip_prefix(home).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether `text` has `word`, and not as part of a longer one.
fn says(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

/// What a room that knows little must not name.
#[test]
fn rooms_do_not_know_what_the_page_says_they_do_not() {
    const NET: [&str; 5] = ["TcpStream", "TcpListener", "UdpSocket", "UnixStream", "tokio"];
    const KNOW: [(&str, &[&str]); 5] = [
        ("wire", &["std::net", "std::fs", "std::time", "std::io::Read", "rustix"]),
        ("tree", &["crate::link", "crate::wire", "crate::tls", "std::net"]),
        ("install", &["crate::link", "crate::wire", "crate::tls", "crate::archive", "std::net"]),
        ("sst", &["crate::tls", "rustls", "crate::wire"]),
        ("pace", &["now()", "elapsed()"]),
    ];
    let modules = modules();
    for (room, unknown) in KNOW {
        let room: Vec<_> = modules.iter().filter(|(module, _)| within(module, room)).collect();
        assert!(!room.is_empty());
        for (module, code) in room {
            for word in NET.iter().chain(unknown) {
                assert!(!says(code, word), "src/{module} names {word}");
            }
        }
    }
}

#[test]
fn a_file_is_short_and_says_first_what_it_is() {
    let modules = modules();
    let mut lengths = Vec::new();
    for module in modules.keys() {
        let path = module.replace("::", "/");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/{path}.rs"));
        let path = if file.exists() { format!("src/{path}.rs") } else { format!("src/{path}/mod.rs") };
        let text = read(&path);
        assert!(text.starts_with("//! "), "{path} does not begin by saying what it is");
        let name = module.rsplit("::").next().unwrap();
        assert!(!["util", "utils", "common", "helper", "helpers", "misc"].contains(&name), "{path}");
        let length = before_tests(&text).lines().count();
        assert!(length <= 500, "{path} has {length} lines before its tests");
        lengths.push(length);
    }
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= 150, "half of the files have more than {median} lines");
}

/// `name = "1.0"` or `name = { package = "other", … }` of a section of Cargo.toml: what the code calls it, and its name.
fn dependencies(section: &str) -> Vec<(String, String)> {
    let cargo = read("Cargo.toml");
    let (_, rest) = cargo.split_once(&format!("\n[{section}]\n")).unwrap();
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, value)| {
            let package = value.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            (key.replace('-', "_"), package.unwrap_or(key).to_owned())
        })
        .collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn each_outside_crate_lives_where_the_page_says() {
    let page = read("docs/architecture.md");
    let (_, table) = page.split_once("| crate | room | for |").unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let modules = modules();
    for (ident, name) in dependencies("dependencies") {
        let mine: Vec<_> = rows.iter().filter(|row| row[1].split(", ").any(|known| known == name)).collect();
        assert_eq!(mine.len(), 1, "{name} has {} rows", mine.len());
        if mine[0][2] == "everywhere" {
            continue;
        }
        let homes: Vec<String> =
            quoted(mine[0][2]).map(|home| home.trim_end_matches(".rs").replace('/', "::")).collect();
        let path = format!("{ident}::");
        let uses = |code: &str| {
            code.match_indices(&path)
                .any(|(at, _)| !code[..at].ends_with(|c: char| c == ':' || c == '_' || c.is_ascii_alphanumeric()))
        };
        let users: Vec<&str> =
            modules.iter().filter(|(_, code)| uses(code)).map(|(module, _)| module.as_str()).collect();
        for user in &users {
            assert!(homes.iter().any(|home| within(user, home)), "src/{user} uses {name}, which lives in {homes:?}");
        }
        let shared = mine[0][1].contains(", ");
        let empty = homes.iter().find(|home| !shared && !users.iter().any(|user| within(user, home)));
        assert!(empty.is_none(), "{name} is no longer used in {empty:?}");
    }
    let all: BTreeSet<String> = ["dependencies", "dev-dependencies"]
        .iter()
        .flat_map(|section| dependencies(section))
        .map(|(_, name)| name)
        .collect();
    for name in rows.iter().flat_map(|row| row[1].split(", ")) {
        assert!(all.contains(name), "{name} is not a dependency");
    }
}

#[test]
fn what_the_page_names_exists() {
    let (page, modules) = (read("docs/architecture.md"), modules());
    let rooms: BTreeSet<&str> = modules.keys().map(|module| module.split("::").next().unwrap()).collect();
    let everything: String = modules.values().map(|code| code.as_str()).collect();
    let word = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut seen = 0;
    for name in quoted(&page) {
        let parts: Vec<&str> = name.split("::").collect();
        if name.ends_with(".rs") && name.contains('/') {
            let path = name.trim_start_matches("src/");
            let there = |folder: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(path).exists();
            assert!(there("src") || there(""), "{name}");
        } else if parts.len() > 1 && parts.iter().all(word) {
            let mut home = String::new();
            let mut rest = parts.as_slice();
            while let Some((first, later)) = rest.split_first() {
                let next = if home.is_empty() { (*first).to_owned() } else { format!("{home}::{first}") };
                if !modules.keys().any(|module| within(module, &next)) {
                    break;
                }
                (home, rest) = (next, later);
            }
            assert!(home.is_empty() != rooms.contains(parts[0]), "{name}");
            let code: String =
                modules.iter().filter(|(module, _)| within(module, &home)).map(|(_, code)| code.as_str()).collect();
            let code = if home.is_empty() { &everything } else { &code };
            for part in rest {
                assert!(says(code, part), "`{name}`: there is no {part} in src/{home}");
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

/// Numbers that the page tells, each beside the constant that makes it true.
#[test]
fn numbers_on_the_page_are_those_of_the_code() {
    const NUMBERS: [(&str, &str, &str); 14] = [
        ("1 MiB of a file, aligned", "manifest/mod.rs", "const CHUNK: u64 = 1 << 20;"),
        ("at most 512 entries", "donor/queue.rs", "const BATCH_ENTRIES: usize = 512;"),
        ("four at a time", "donor/queue.rs", "const SIDE_BY_SIDE: usize = 4;"),
        ("64 MiB of frames", "donor/lane.rs", "const WINDOW: u64 = 64 << 20;"),
        ("two threads of the joiner", "joiner/seeding.rs", "const THREADS: usize = 2;"),
        ("at most five of them", "donor/rounds.rs", "const MOST: usize = 5;"),
        ("(30 s without one)", "donor/files.rs", "const CUT: Duration = Duration::from_secs(30);"),
        ("The lanes have 1 s to say goodbye", "donor/lane.rs", "const PATIENCE: Duration = Duration::from_secs(1);"),
        ("at most two frames wait", "donor/lane.rs", "const AHEAD: usize = 2;"),
        ("at most two frames wait", "joiner/lane.rs", "const AHEAD: usize = 2;"),
        ("a frame holds at most 2 MiB", "wire/frame.rs", "const MAX_RAW: u32 = 2 << 20;"),
        ("32 at most", "link/lanes.rs", "const MAX: u16 = 32;"),
        ("64 MiB at most", "donor/catalog.rs", "const HINTS: usize = 64 << 20;"),
        ("refused for a second", "link/again.rs", "const GONE: Duration = Duration::from_secs(1);"),
    ];
    let page = read("docs/architecture.md").split_whitespace().collect::<Vec<_>>().join(" ");
    for (told, file, constant) in NUMBERS {
        assert!(page.contains(told), "the page does not say {told:?} any more");
        assert!(
            read(&format!("src/{file}")).contains(constant),
            "{told:?}, says the page, and src/{file} has another number"
        );
    }
}

#[test]
fn every_fuzz_target_has_a_body_seeds_and_a_row() {
    let (bodies, page) = (read("src/fuzzing.rs"), read("docs/fuzzing.md"));
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets"), &mut files);
    let named = |line: &str| line.strip_prefix("pub fn ").map(|rest| rest.split('(').next().unwrap().to_owned());
    let targets: BTreeSet<String> = bodies.lines().filter_map(named).collect();
    let stems = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(targets, stems.collect::<BTreeSet<_>>());
    for target in &targets {
        assert!(page.lines().any(|row| row.starts_with("| `") && row.contains(&format!("`{target}`"))), "{target}");
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        assert!(fs::read_dir(seeds).is_ok_and(|mut seeds| seeds.next().is_some()), "{target}");
    }
}

/// A runner prints a test behind its module, so `ticket::tests::ticket_…` would say it twice.
#[test]
fn a_tests_name_does_not_begin_with_its_modules() {
    let mut seen = 0;
    for folder in ["src", "tests"] {
        let mut files = Vec::new();
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
            let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let module = match stem(file).as_str() {
                "mod" => stem(file.parent().unwrap()),
                own => own.trim_start_matches("pair_").trim_start_matches("cluster_").to_owned(),
            };
            let subject = |name: &str| name.split('_').next().unwrap().trim_end_matches('s').to_owned();
            let text = fs::read_to_string(file).unwrap();
            for test in text.split("test]\n").skip(1).filter_map(|rest| rest.split_once("fn ")) {
                let name = test.1.split('(').next().unwrap();
                assert_ne!(subject(name), subject(&module), "{}: {name}", file.display());
                assert!(!name.starts_with("pair_") && !name.starts_with("cluster_"), "{}: {name}", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 600, "{seen}");
}
