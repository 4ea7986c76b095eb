//! "Did you mean": the nearest known name for an unknown name.

/// The known name that `name` is most likely a misspelling of.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …` or `; known: …`, to append to an error. Does not repeat the unknown name,
/// which may be a misplaced credential.
pub(super) fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(nearest) = nearest(name, known.clone()) {
        return format!("; did you mean `{nearest}`?");
    }
    let known: Vec<_> = known.into_iter().collect();
    if known.is_empty() {
        return String::new();
    }
    format!("; known: {}", known.join(", "))
}

/// Edit distance, 0 between `ClientID`, `client-id` and `client_id`.
fn distance(a: &str, b: &str) -> usize {
    let plain = |name: &str| {
        name.to_ascii_lowercase()
            .replace(|c: char| !c.is_alphanumeric(), "")
    };
    strsim::damerau_levenshtein(&plain(a), &plain(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_misspellings_only() {
        let known = ["client_id", "client_secret", "md5", "sha256"];
        for (name, nearest_name) in [
            ("clientId", Some("client_id")),
            ("client_sercet", Some("client_secret")),
            ("md4", Some("md5")),
            ("sha265", Some("sha256")),
            ("completely_else", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), nearest_name, "{name}");
        }
    }

    #[test]
    fn the_hint_never_repeats_the_name() {
        assert_eq!(hint("hunter2", ["a", "b"]), "; known: a, b");
        assert_eq!(
            hint("clientid", ["client_id"]),
            "; did you mean `client_id`?"
        );
        assert_eq!(hint("x", []), "");
    }
}
