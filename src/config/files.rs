//! Which files a configuration names, also one with mistakes in it: a reload that failed may succeed when they change.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::Value;

use super::read::{self, Tree};

/// Every path that stands at a key `file` or `…_file`, wherever that is. None of what is not TOML.
pub fn named_files(text: &str) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    if let Ok(Tree(tree)) = &read::parse(text) {
        walk(tree, false, &mut files);
    }
    files
}

/// `is_path`: the key says that a path stands here.
fn walk(value: &Value, is_path: bool, files: &mut BTreeSet<PathBuf>) {
    match value {
        Value::String(path) if is_path => drop(files.insert(path.into())),
        Value::Array(items) => {
            for item in items {
                walk(item, is_path, files);
            }
        }
        Value::Table(table) => {
            for (key, value) in table {
                walk(value, key == "file" || key.ends_with("_file"), files);
            }
        }
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_) => {}
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
    fn paths_are_found_wherever_they_stand() {
        let text = "x = 1\ny = 1.5\nwhen = 1979-05-27T07:32:00Z\nnot = true\n\
            [a]\nfile = 'one'\nfiles = 'no'\nca_file = ['two', { file = 'three' }]\n\
            [[b.c]]\nsecret = { file = 'four', env = 'no' }\n[[b.c]]\nclient_key_file = 'five'\nz_file = 6";
        assert_eq!(named(text), ["five", "four", "one", "three", "two"]);
    }

    #[test]
    fn what_is_not_toml_names_none() {
        assert_eq!(named("file = 'a'\nfile = "), [""; 0]);
    }
}
