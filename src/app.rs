//! Wiring: a [`Config`] becomes a [`Bound`] proxy that can run.

use std::net::SocketAddr;

use crate::config::{Config, Listen};

pub struct Bound {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGTERM: `shutdown_delay` first.
    Term,
    /// SIGINT: no delay.
    Interrupt,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start")]
pub struct StartError;

#[derive(Debug, thiserror::Error)]
#[error("cannot run")]
pub struct RunError;

pub fn bind(config: Config) -> Result<Bound, StartError> {
    let _ = config;
    todo!()
}

impl Bound {
    pub fn listeners(&self) -> Vec<Listen> {
        todo!()
    }

    pub fn admin(&self) -> Option<SocketAddr> {
        todo!()
    }

    pub fn run(
        self,
        shutdown: impl Future<Output = Shutdown> + Send + 'static,
    ) -> Result<(), RunError> {
        let _ = shutdown;
        todo!()
    }
}
