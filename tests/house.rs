//! The rules of the house that a compiler does not check: arrows between rooms point down the list in `src/lib.rs`, and no
//! two modules import each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every module of the library by its path, `sst::options::files`, with its code but for tests.
fn modules() -> BTreeMap<String, String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
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
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
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

/// The modules that one imports from, but for its own parents and children, which are its face and its parts.
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
    // And nobody whom nobody imports.
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
    let list = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
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

/// A Galera log prints what these rooms say, and there nobody typed a flag.
#[test]
fn what_both_front_ends_say_names_a_flag_only_by_hand() {
    const ROOMS: [&str; 8] = ["donor", "joiner", "install", "link", "archive", "wire", "manifest", "tree"];
    let mut seen = 0;
    for (module, code) in modules() {
        if !ROOMS.contains(&module.split("::").next().unwrap()) {
            continue;
        }
        // A sentence goes on over the ends of lines.
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
