//! Sends a plugin's tracing events to the host, where they join the engine's stream.
//!
//! A plugin has its own copy of `tracing`, so the engine's subscriber never sees its events by itself.

use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    Layer, layer::Context as LayerContext, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{context::Listener, task::Event};

struct Forward {
    listener: Box<dyn Listener>,
}

/// Installs the forwarding subscriber; a second call in one process changes nothing.
pub(crate) fn install(plugin: &str, listener: Box<dyn Listener>) {
    let installed = tracing_subscriber::registry().with(Forward { listener }).try_init();
    if installed.is_err() {
        tracing::debug!(plugin, "the plugin's log is forwarded already");
    }
}

impl<S: tracing::Subscriber> Layer<S> for Forward {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: LayerContext<'_, S>) -> bool {
        *metadata.level() <= tracing::Level::DEBUG
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: LayerContext<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        self.listener.emit(&Event::Log {
            level: metadata.level().to_string(),
            target: metadata.target().to_owned(),
            message: text.message + &text.fields,
        });
    }
}

/// An event's message and its fields as `key=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
