//! A subscriber for events only. `tracing_subscriber::Registry` also keeps spans, and 33 KiB for
//! them; Cupbearer opens none, and in a release h2's only span, `Connection`, holds nothing useful.

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::registry::{Extensions, ExtensionsMut, LookupSpan, SpanData};

/// Accepts events and disables all spans, so that layers see no new span.
pub(super) struct Events;

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        !metadata.is_span()
    }

    /// Never called, since no span is enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    /// Does nothing: the layers write.
    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl LookupSpan<'_> for Events {
    type Data = NoSpan;

    fn span_data(&self, _: &Id) -> Option<NoSpan> {
        None
    }
}

/// A span that cannot exist.
pub(super) enum NoSpan {}

impl SpanData<'_> for NoSpan {
    fn id(&self) -> Id {
        match *self {}
    }

    fn metadata(&self) -> &'static Metadata<'static> {
        match *self {}
    }

    fn parent(&self) -> Option<&Id> {
        match *self {}
    }

    fn extensions(&self) -> Extensions<'_> {
        match *self {}
    }

    fn extensions_mut(&self) -> ExtensionsMut<'_> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn events_are_written_without_spans() {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        tracing::subscriber::with_default(Events.with(lines.json().flatten_event(true)), || {
            let span = tracing::error_span!("connection", peer = "client");
            assert!(span.is_disabled());
            let _entered = span.enter();
            tracing::info!(provider = "a", "token fetched");
        });
        let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(line["message"], "token fetched");
        assert_eq!(line["provider"], "a");
        assert_eq!(line.get("span"), None);
    }
}
