//! Finds the files that a configuration names, even an invalid one: a failed reload may succeed
//! once such a file changes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::Value;

use super::read::{self, Tree};

/// Returns the paths at every key `file` or `…_file`; none if the text is not TOML.
pub fn named_files(text: &str) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    if let Ok(Tree(tree)) = &read::parse(text) {
        walk(tree, false, &mut files);
    }
    files
}

/// `is_path`: the key's name marks a path.
fn walk(value: &Value, is_path: bool, files: &mut BTreeSet<PathBuf>) {
    match value {
        Value::String(path) if is_path => drop(files.insert(path.into())),
        Value::Array(items) => items.iter().for_each(|item| walk(item, is_path, files)),
        Value::Table(table) => (table.iter()).for_each(|(key, value)| {
            walk(value, key == "file" || key.ends_with("_file"), files);
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let files = named_files(text);
        let files = files.iter().map(|file| file.to_str().unwrap().to_owned());
        files.collect()
    }

    #[test]
    fn paths_are_found_at_any_depth() {
        let text = "x = 1\ny = 1.5\nwhen = 1979-05-27T07:32:00Z\nnot = true\n\
            [a]\nfile = 'one'\nfiles = 'no'\nca_file = ['two', { file = 'three' }]\n\
            [[b.c]]\nsecret = { file = 'four', env = 'no' }\n\
            [[b.c]]\nclient_key_file = 'five'\nz_file = 6";
        assert_eq!(named(text), ["five", "four", "one", "three", "two"]);
    }

    #[test]
    fn invalid_toml_names_no_file() {
        assert_eq!(named("file = 'a'\nfile = "), [""; 0]);
    }
}
