//! `--fault`: vendors that misbehave on request, from the start or for a while, so that one can watch what the proxy makes of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::demo::vendors::{FakeVendor, Fault, Kind, UnknownFault};

/// `VENDOR=FAULT[@BEGIN[+LENGTH]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) vendor: Kind,
    wrong: Wrong,
    /// After the table; `None`: from the start.
    begins: Option<Duration>,
    /// `None`: until the end.
    lasts: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// The token endpoint does not do what it should.
    Endpoint(Fault),
    /// All tokens issued so far are dead.
    Revoked,
}

/// Something that happens to a vendor while the demo is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// After the table.
    pub(super) at: Duration,
    pub(super) vendor: Kind,
    /// `None`: all is well again.
    wrong: Option<Wrong>,
}

impl Trouble {
    /// What is wrong before anything is asked.
    pub(super) fn at_the_start(&self) -> Option<Fault> {
        match (self.begins, self.wrong) {
            (None, Wrong::Endpoint(fault)) => Some(fault),
            _ => None,
        }
    }
}

/// All that is to happen after the table, in its order.
pub(super) fn changes(troubles: &[Trouble]) -> Vec<Change> {
    let mut changes = Vec::new();
    for trouble in troubles {
        let begins = trouble.begins.unwrap_or_default();
        let change = |at, wrong| Change {
            at,
            vendor: trouble.vendor,
            wrong,
        };
        if trouble.at_the_start().is_none() {
            changes.push(change(begins, Some(trouble.wrong)));
        }
        if let Some(lasts) = trouble.lasts {
            changes.push(change(begins + lasts, None));
        }
    }
    changes.sort_by_key(|change| change.at);
    changes
}

impl Change {
    pub(super) fn make(&self, vendors: &[FakeVendor]) {
        for vendor in vendors.iter().filter(|vendor| vendor.kind() == self.vendor) {
            match self.wrong {
                Some(Wrong::Endpoint(fault)) => vendor.set_fault(Some(fault)),
                Some(Wrong::Revoked) => vendor.kill_tokens(),
                None => vendor.set_fault(None),
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wrong {
            Some(Wrong::Endpoint(fault)) => write!(f, "*** its token endpoint: {fault:?}"),
            Some(Wrong::Revoked) => f.write_str("*** all its tokens are revoked"),
            None => f.write_str("*** its token endpoint works again"),
        }
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (vendor, rest) = text.split_once('=').ok_or("write VENDOR=FAULT")?;
        let vendor = Kind::ALL
            .into_iter()
            .find(|kind| kind.name() == vendor)
            .ok_or_else(|| {
                let names = Kind::ALL.map(Kind::name).join(", ");
                format!("no vendor '{vendor}'; there are {names}")
            })?;
        let (fault, when) = match rest.split_once('@') {
            Some((fault, when)) => (fault, Some(when)),
            None => (rest, None),
        };
        let wrong = match fault {
            "revoked" => Wrong::Revoked,
            fault => Wrong::Endpoint(fault.parse().map_err(|error: UnknownFault| {
                format!("{error}; or revoked, which kills its tokens")
            })?),
        };
        let (begins, lasts) = match when.map(|when| when.split_once('+').unwrap_or((when, ""))) {
            None => (None, None),
            Some((begins, "")) => (Some(seconds(begins)?), None),
            Some((begins, lasts)) => (Some(seconds(begins)?), Some(seconds(lasts)?)),
        };
        Ok(Self {
            vendor,
            wrong,
            begins,
            lasts,
        })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text
        .strip_suffix('s')
        .and_then(|number| number.parse().ok());
    number
        .map(Duration::from_secs)
        .ok_or_else(|| "write times as in @5s+40s: from 5 s after the table, for 40 s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_as_vendor_fault_and_time() {
        let trouble = |wrong, begins: Option<u64>, lasts: Option<u64>| Trouble {
            vendor: Kind::Cncn,
            wrong,
            begins: begins.map(Duration::from_secs),
            lasts: lasts.map(Duration::from_secs),
        };
        let bad = Wrong::Endpoint(Fault::Status(503));
        for (text, expected) in [
            ("cncn=503", trouble(bad, None, None)),
            ("cncn=503@5s", trouble(bad, Some(5), None)),
            ("cncn=503@5s+40s", trouble(bad, Some(5), Some(40))),
            ("cncn=revoked@1s", trouble(Wrong::Revoked, Some(1), None)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (wrong, why) in [
            ("cncn", "write VENDOR=FAULT"),
            ("x=down", "there are cncn, besender"),
            ("cncn=200", "unknown fault"),
            ("cncn=down@5", "@5s+40s"),
            ("cncn=down@5s+x", "@5s+40s"),
        ] {
            let error = wrong.parse::<Trouble>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_begins_later_ends_later_and_all_is_in_its_order() {
        let troubles: Vec<Trouble> = ["cncn=down@5s+40s", "ctcfile=revoked@10s", "passport=500"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let seen: Vec<_> = changes(&troubles)
            .iter()
            .map(|change| (change.at.as_secs(), change.vendor, change.wrong.is_some()))
            .collect();
        assert_eq!(
            seen,
            [
                (5, Kind::Cncn, true),
                (10, Kind::Ctcfile, true),
                (45, Kind::Cncn, false)
            ]
        );
        assert_eq!(troubles[0].at_the_start(), None);
        assert_eq!(troubles[2].at_the_start(), Some(Fault::Status(500)));
    }
}
