//! Tokens, where the control and the data plane meet: pure code and atomics, no I/O.
//!
//! The refresher, which alone holds a [`cell::CellWriter`], publishes tokens; requests read them
//! through a [`cell::CellReader`] without a lock. [`schedule`] decides when to fetch.

pub mod cell;
pub mod schedule;
