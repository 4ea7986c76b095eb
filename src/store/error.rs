//! Errors of all stores.

use std::path::PathBuf;

use crate::provider::inputs::InputError;

/// Failure to open, read or write a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("store.path: cannot {action} {}: {reason}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error(
        "store.path: {} is in use by process {holder}: \
         stop that process, or set another store.path",
        path.display()
    )]
    Locked { path: PathBuf, holder: String },
    #[error(
        "store.path: {} cannot be used: {reason}. Nothing was changed; \
         move the file away if its state may be lost",
        path.display()
    )]
    Unopenable { path: PathBuf, reason: String },
    #[error("store.key: {0}")]
    Key(String),
    /// The blocking task panicked, or the runtime is shutting down.
    #[error("a store operation did not finish: {0}")]
    Unfinished(String),
    #[error("another process has just sent this one-time input, which is never sent twice")]
    Claimed,
    #[error(
        "store.kind = \"memory\" keeps nothing after its process ends: \
         set store.kind = \"file\" and store.path"
    )]
    NotDurable,
    #[error(
        "store.path: {} belongs to another user (uid {owner}), \
         who could not read the files that this command writes: run the command as that user",
        path.display()
    )]
    ForeignOwner { path: PathBuf, owner: u32 },
    #[error(transparent)]
    Input(#[from] InputError),
}
