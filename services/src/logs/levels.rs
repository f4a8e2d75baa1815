//! How much the daemon says of itself, for all of it and for each component, changed while it runs.
//!
//! A component is the first module of the code that speaks: `tls` for `portcullis_layers::tls::resolver`.
//! Crates of others are components, too, and never say more than INFO unless they are named. A level that
//! is off costs nothing: the callsites cache it, and a change of levels makes them ask again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// What all crates of this workspace begin with.
const OURS: &str = "portcullis";

/// A level that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{level:?} is no level: expected TRACE, DEBUG, INFO, WARNING, ERROR or OFF")]
pub struct LevelError {
    /// What was said.
    pub level: String,
}

/// The levels as names, as they are stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelSettings {
    /// The level of everything that is not named.
    pub global: String,
    /// The levels of components.
    #[serde(default)]
    pub components: BTreeMap<String, String>,
}

/// The levels in force. A clone is a reference count and sees every change.
#[derive(Debug, Clone)]
pub struct Levels(Arc<ArcSwap<Table>>);

#[derive(Debug, Clone)]
struct Table {
    global: LevelFilter,
    components: BTreeMap<String, LevelFilter>,
}

/// Reads the name of a level: those of the catalogue and those of `tracing`, in any case.
///
/// # Errors
/// If there is no such level.
pub fn parse_level(name: &str) -> Result<LevelFilter, LevelError> {
    match name.trim().to_ascii_uppercase().as_str() {
        "TRACE" => Ok(LevelFilter::TRACE),
        "DEBUG" => Ok(LevelFilter::DEBUG),
        "INFO" => Ok(LevelFilter::INFO),
        "WARNING" | "WARN" => Ok(LevelFilter::WARN),
        // Nothing of ours is worse than an error.
        "ERROR" | "CRITICAL" => Ok(LevelFilter::ERROR),
        "OFF" => Ok(LevelFilter::OFF),
        _ => Err(LevelError { level: name.to_owned() }),
    }
}

fn name(level: LevelFilter) -> String {
    match level {
        LevelFilter::WARN => "WARNING".to_owned(),
        level => level.to_string().to_ascii_uppercase(),
    }
}

/// A component that nobody can make talk.
pub const SILENT: &str = "rmcp";

/// The component of a target.
pub fn component(target: &str) -> &str {
    let mut segments = target.split("::");
    let krate = segments.next().unwrap_or(target);
    if is_ours(krate) { segments.next().unwrap_or(OURS) } else { krate }
}

fn is_ours(krate: &str) -> bool {
    krate.strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

impl Table {
    fn level(&self, target: &str) -> LevelFilter {
        // It tells ids of sessions, and what clients and servers say, at every level.
        if component(target) == SILENT {
            return LevelFilter::OFF;
        }
        if let Some(level) = self.components.get(component(target)) {
            return *level;
        }
        match target.split_once("::") {
            Some((krate, _)) if !is_ours(krate) => self.global.min(LevelFilter::INFO),
            _ => self.global,
        }
    }

    fn max(&self) -> LevelFilter {
        self.components.values().copied().fold(self.global, LevelFilter::max)
    }
}

impl Levels {
    /// One level for everything.
    pub fn new(global: LevelFilter) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Table { global, components: BTreeMap::new() })))
    }

    /// Sets the level of everything that is not named.
    pub fn set_global(&self, level: LevelFilter) {
        self.change(|table| table.global = level);
    }

    /// Sets the level of a component.
    pub fn set(&self, component: &str, level: LevelFilter) {
        self.change(|table| {
            table.components.insert(component.to_owned(), level);
        });
    }

    /// Lets a component follow the global level again.
    pub fn reset(&self, component: &str) {
        self.change(|table| {
            table.components.remove(component);
        });
    }

    /// The level that holds for a component of ours.
    pub fn level_of(&self, component: &str) -> LevelFilter {
        let table = self.0.load();
        table.components.get(component).copied().unwrap_or(table.global)
    }

    /// The levels as names.
    pub fn settings(&self) -> LevelSettings {
        let table = self.0.load();
        let components = table.components.iter();
        LevelSettings {
            global: name(table.global),
            components: components.map(|(component, level)| (component.clone(), name(*level))).collect(),
        }
    }

    /// Replaces all levels, e.g. with those that nodes share.
    ///
    /// # Errors
    /// If one of them is no level; then nothing has changed.
    pub fn apply(&self, settings: &LevelSettings) -> Result<(), LevelError> {
        let global = parse_level(&settings.global)?;
        let components = settings.components.iter();
        let components = components
            .map(|(component, level)| Ok((component.clone(), parse_level(level)?)))
            .collect::<Result<BTreeMap<_, _>, LevelError>>()?;
        self.change(|table| *table = Table { global, components: components.clone() });
        Ok(())
    }

    fn change(&self, change: impl Fn(&mut Table)) {
        self.0.rcu(|table| {
            let mut table = Table::clone(table);
            change(&mut table);
            table
        });
        tracing::callsite::rebuild_interest_cache();
    }

    fn allow(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0.load().level(metadata.target())
    }
}

/// As a layer, the levels hold for every output of the subscriber.
impl<S: Subscriber> Layer<S> for Levels {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.allow(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.allow(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.load().max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_the_first_modules() {
        for (target, expected) in [
            ("portcullis_layers::tls::resolver", "tls"),
            ("portcullis_services::store::redis", "store"),
            ("portcullis::edge", "edge"),
            ("portcullis", "portcullis"),
            ("portcullises::x", "portcullises"),
            ("hyper::proto::h1", "hyper"),
            ("audit", "audit"),
            ("", ""),
        ] {
            assert_eq!(component(target), expected, "{target}");
        }
    }

    #[test]
    fn levels_hold_globally_and_for_each_component() {
        let levels = Levels::new(LevelFilter::INFO);
        let level = |target| levels.0.load().level(target);
        assert_eq!(level("portcullis_layers::tls"), LevelFilter::INFO);
        levels.set("tls", LevelFilter::TRACE);
        assert_eq!(level("portcullis_layers::tls::resolver"), LevelFilter::TRACE);
        assert_eq!(level("portcullis_layers::route"), LevelFilter::INFO);
        levels.set_global(LevelFilter::DEBUG);
        assert_eq!(level("portcullis_layers::route"), LevelFilter::DEBUG);
        assert_eq!(level("hyper::proto"), LevelFilter::INFO);
        levels.set("hyper", LevelFilter::TRACE);
        assert_eq!(level("hyper::proto"), LevelFilter::TRACE);
        levels.set("rmcp", LevelFilter::TRACE);
        assert_eq!(level("rmcp::service"), LevelFilter::OFF, "whatever anybody says");
        levels.reset("tls");
        assert_eq!(levels.level_of("tls"), LevelFilter::DEBUG);
    }

    #[test]
    fn settings_are_applied_as_a_whole_or_not_at_all() {
        let levels = Levels::new(LevelFilter::INFO);
        let settings = LevelSettings {
            global: "warning".into(),
            components: [("tls".to_owned(), "TRACE".to_owned())].into(),
        };
        levels.apply(&settings).unwrap();
        assert_eq!(levels.settings().global, "WARNING");
        let bad = LevelSettings { global: "INFO".into(), components: [("a".into(), "loud".into())].into() };
        assert_eq!(levels.apply(&bad).unwrap_err().level, "loud");
        assert_eq!(levels.settings().components["tls"], "TRACE");
    }
}
