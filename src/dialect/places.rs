//! Keys of `[response]` that have no effect without the selector of another key.

use super::field::{Problem, join};
use super::response::ResponseRules;

/// Checks that the answer's life and its codes, if `rules` say more about them, have a place.
pub(super) fn check_places(rules: &ResponseRules, problems: &mut Vec<Problem>) {
    let no_life = rules.expires.is_empty();
    let no_text = rules.error.is_empty() && rules.error_description.is_empty();
    let transient = !rules.transient_is_default && rules.transient.reads_texts();
    for (key, is_useless, place) in [
        (
            "expires_unit",
            no_life && rules.expires_unit.is_some(),
            "expires",
        ),
        (
            "issued_at",
            no_life && !rules.issued_at.is_empty(),
            "expires",
        ),
        (
            "permanent",
            no_text && rules.permanent.reads_texts(),
            "error",
        ),
        ("transient", no_text && transient, "error"),
        ("final", no_text && rules.final_.reads_texts(), "error"),
    ] {
        // An unreadable selector is already reported.
        let path = join("response", place);
        if is_useless && !problems.iter().any(|problem| problem.path == path) {
            let message = format!("has no effect without `{place}`: write its selector");
            problems.push(Problem::new(join("response", key), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(toml: &str) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let rules = ResponseRules::parse(&toml::from_str(toml).unwrap(), &mut problems);
        check_places(&rules, &mut problems);
        let problems = problems.into_iter();
        problems.map(|it| (it.path, it.message)).collect()
    }

    #[test]
    fn a_life_or_a_code_without_a_place_is_a_problem() {
        let no_text = "error = []\nerror_description = []";
        for (toml, key, place) in [
            ("expires_unit = 'ms'", "expires_unit", "expires"),
            ("issued_at = '/at'", "issued_at", "expires"),
            (
                &*format!("permanent = [7]\n{no_text}"),
                "permanent",
                "error",
            ),
            (
                &*format!("transient = ['try later']\n{no_text}"),
                "transient",
                "error",
            ),
            (
                &*format!("final = ['re:gone']\n{no_text}"),
                "final",
                "error",
            ),
        ] {
            let message = format!("has no effect without `{place}`: write its selector");
            assert_eq!(
                problems(toml),
                [(format!("response.{key}"), message)],
                "{toml}"
            );
        }
    }

    #[test]
    fn statuses_and_defaults_need_no_place() {
        let no_text = "error = []\nerror_description = []";
        for toml in [
            no_text,
            &*format!("transient = ['status:400']\n{no_text}"),
            "final = ['re:gone']\nerror = []",
            "expires = 'jwt:exp'\nexpires_unit = 's'",
        ] {
            assert_eq!(problems(toml), [], "{toml}");
        }
        // One mistake gives one message.
        let unreadable = problems("expires = 're:('\nexpires_unit = 's'");
        assert_eq!(unreadable.len(), 1, "{unreadable:?}");
    }
}
