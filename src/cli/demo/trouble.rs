//! `--fault`: vendors that misbehave on request, from the start or for a while.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::demo::vendors::{FakeVendor, Fault, Kind, UnknownFault};

/// `VENDOR=FAULT[@BEGIN[+LENGTH]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlannedFault {
    pub(super) vendor: Kind,
    effect: Effect,
    /// Time after the table; `None` is from the start.
    begins: Option<Duration>,
    /// `None` is until the end.
    lasts: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The token endpoint misbehaves.
    Endpoint(Fault),
    /// All tokens issued so far are revoked.
    Revoked,
}

/// A vendor's change during the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Time after the table.
    pub(super) at: Duration,
    pub(super) vendor: Kind,
    /// `None` repairs the token endpoint.
    effect: Option<Effect>,
}

impl PlannedFault {
    /// Returns the fault that holds from the start.
    pub(super) fn initial(&self) -> Option<Fault> {
        match (self.begins, self.effect) {
            (None, Effect::Endpoint(fault)) => Some(fault),
            _ => None,
        }
    }
}

/// Returns the changes after the table, by time.
pub(super) fn changes(planned: &[PlannedFault]) -> Vec<Change> {
    let mut changes = Vec::new();
    for fault in planned {
        let begins = fault.begins.unwrap_or_default();
        let change = |at, effect| Change {
            at,
            vendor: fault.vendor,
            effect,
        };
        if fault.initial().is_none() {
            changes.push(change(begins, Some(fault.effect)));
        }
        changes.extend(fault.lasts.map(|lasts| change(begins + lasts, None)));
    }
    changes.sort_by_key(|change| change.at);
    changes
}

impl Change {
    pub(super) fn apply(&self, vendors: &[FakeVendor]) {
        for vendor in vendors.iter().filter(|vendor| vendor.kind() == self.vendor) {
            match self.effect {
                Some(Effect::Endpoint(fault)) => vendor.set_fault(Some(fault)),
                Some(Effect::Revoked) => vendor.kill_tokens(),
                None => vendor.set_fault(None),
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Some(Effect::Endpoint(fault)) => write!(f, "*** its token endpoint: {fault:?}"),
            Some(Effect::Revoked) => f.write_str("*** all its tokens are revoked"),
            None => f.write_str("*** its token endpoint works again"),
        }
    }
}

impl FromStr for PlannedFault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (vendor, rest) = text.split_once('=').ok_or("write VENDOR=FAULT")?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == vendor);
        let vendor = kind.ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            format!("no vendor '{vendor}'; there are {names}")
        })?;
        let (fault, when) = match rest.split_once('@') {
            Some((fault, when)) => (fault, Some(when)),
            None => (rest, None),
        };
        let effect = match fault {
            "revoked" => Effect::Revoked,
            fault => Effect::Endpoint(fault.parse().map_err(|error: UnknownFault| {
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
            effect,
            begins,
            lasts,
        })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').and_then(|text| text.parse().ok());
    let time = number.map(Duration::from_secs);
    time.ok_or_else(|| "write times as in @5s+40s: from 5 s after the table, for 40 s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_written_as_vendor_fault_and_time() {
        let planned = |effect, begins: Option<u64>, lasts: Option<u64>| PlannedFault {
            vendor: Kind::Cncn,
            effect,
            begins: begins.map(Duration::from_secs),
            lasts: lasts.map(Duration::from_secs),
        };
        let bad = Effect::Endpoint(Fault::Status(503));
        for (text, expected) in [
            ("cncn=503", planned(bad, None, None)),
            ("cncn=503@5s", planned(bad, Some(5), None)),
            ("cncn=503@5s+40s", planned(bad, Some(5), Some(40))),
            ("cncn=revoked@1s", planned(Effect::Revoked, Some(1), None)),
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
            let error = wrong.parse::<PlannedFault>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn changes_are_sorted_by_time() {
        let faults: Vec<PlannedFault> = ["cncn=down@5s+40s", "ctcfile=revoked@10s", "passport=500"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let seen: Vec<_> = changes(&faults)
            .iter()
            .map(|change| (change.at.as_secs(), change.vendor, change.effect.is_some()))
            .collect();
        assert_eq!(
            seen,
            [
                (5, Kind::Cncn, true),
                (10, Kind::Ctcfile, true),
                (45, Kind::Cncn, false)
            ]
        );
        assert_eq!(faults[0].initial(), None);
        assert_eq!(faults[2].initial(), Some(Fault::Status(500)));
    }
}
