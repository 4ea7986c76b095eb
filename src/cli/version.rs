//! `cupbearer version`.

use std::io::Write;

use super::failure::Failure;

pub(super) fn run(out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "cupbearer {}", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
