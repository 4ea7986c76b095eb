//! Environment variables, as the configuration reads them.

/// Access to environment variables. Tests supply an array of names and values, or a closure.
pub trait Environment {
    fn var(&self, name: &str) -> Option<String>;
}

#[derive(Clone, Copy, Debug)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// An environment without variables, for configurations that must not depend on the machine.
#[derive(Clone, Copy, Debug)]
pub struct NoEnvironment;

impl Environment for NoEnvironment {
    fn var(&self, _name: &str) -> Option<String> {
        None
    }
}

/// A fixed environment: names and values.
impl<V: AsRef<str>, const N: usize> Environment for [(&str, V); N] {
    fn var(&self, name: &str) -> Option<String> {
        let found = self.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_ref().to_owned())
    }
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn var(&self, name: &str) -> Option<String> {
        self(name)
    }
}
