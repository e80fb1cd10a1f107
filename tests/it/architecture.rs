//! Checks the architecture map in `src/lib.rs` against the source: which module uses which; and that
//! type names are unique.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Imports = BTreeMap<String, BTreeSet<String>>;

/// The modules that each module of the map may use: the last column of its table.
fn allowed() -> Imports {
    let map = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = rows.map(|row| row.trim_end_matches(" |").split(" | ").collect::<Vec<_>>());
    let modules = cells.filter(|cells| cells.len() == 4 && cells[0].contains('`'));
    let uses =
        |cells: &[&str]| cells[3].split(' ').map(name).filter(|name| !name.is_empty()).collect();
    modules.map(|cells| (name(cells[0]), uses(&cells))).collect()
}

/// The modules that each module uses, without unit tests and comments.
fn actual() -> Imports {
    let mut imports = Imports::new();
    for file in rust_files(&source()) {
        let module = module_of(&file);
        if ["lib", "main", "pitwirew", "vendor"].contains(&module.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let paths = code.flat_map(|line| line.split("crate::").skip(1));
        let used = paths.map(|path| path.split(|c: char| !c.is_alphanumeric() && c != '_').next());
        let others = used.flatten().filter(|other| *other != module).map(str::to_owned);
        imports.entry(module.clone()).or_default().extend(others);
    }
    imports
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn name(cell: &str) -> String {
    cell.trim_matches(|c: char| !c.is_alphanumeric()).to_owned()
}

/// The top-level module that a file belongs to.
fn module_of(file: &Path) -> String {
    let first = file.strip_prefix(source()).unwrap().iter().next().unwrap();
    Path::new(first).file_stem().unwrap().to_str().unwrap().to_owned()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn the_map_names_exactly_the_modules_that_each_module_uses() {
    assert_eq!(allowed(), actual(), "left: src/lib.rs, right: the source");
}

#[test]
fn no_module_uses_itself_through_others() {
    let mut left = actual();
    while let Some(leaf) = left.keys().find(|module| left[*module].is_empty()).cloned() {
        left.remove(&leaf);
        for uses in left.values_mut() {
            uses.remove(&leaf);
        }
    }
    assert!(left.is_empty(), "each of these uses another one of them: {left:#?}");
}

/// The types that a line defines. Associated types, which are indented, have the name of their
/// trait's.
fn type_of(line: &str) -> Option<&str> {
    let is_indented = line.starts_with(' ');
    let line = line.trim_start();
    let line = match line.strip_prefix("pub(") {
        Some(rest) => rest.split_once(") ")?.1,
        None => line.strip_prefix("pub ").unwrap_or(line),
    };
    let (kind, rest) = line.split_once(' ')?;
    let is_type = ["struct", "enum", "trait", "union"].contains(&kind);
    let is_alias = kind == "type" && !is_indented;
    let name = rest.split(|c: char| !c.is_alphanumeric()).next()?;
    (is_type || is_alias).then_some(name)
}

#[test]
fn no_two_types_have_the_same_name() {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for file in rust_files(&source()) {
        if module_of(&file) == "vendor" {
            continue;
        }
        for name in fs::read_to_string(&file).unwrap().lines().filter_map(type_of) {
            places.entry(name.to_owned()).or_default().push(file.display().to_string());
        }
    }
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}
