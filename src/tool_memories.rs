//! What was seen of the tools of MCP servers, by host: it stays when a host is made anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use portcullis_layers::mcp::pins::Memory;
use portcullis_services::config::HostPattern;

/// The memories of all hosts that somebody looks after.
#[derive(Debug, Default)]
pub struct ToolMemories(Mutex<HashMap<HostPattern, Weak<Memory>>>);

impl ToolMemories {
    /// That of a host: the one that its stack has, as long as there is one.
    pub(crate) fn of(&self, host: &HostPattern) -> Arc<Memory> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(memory) = all.get(host).and_then(Weak::upgrade) {
            return memory;
        }
        all.retain(|_, memory| memory.strong_count() > 0);
        let memory = Arc::default();
        all.insert(host.clone(), Arc::downgrade(&memory));
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_lasts_from_one_stack_to_the_next() {
        let (all, host) = (ToolMemories::default(), "a.example".parse().expect("a host"));
        let first = all.of(&host);
        let second = all.of(&host);
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        let other = all.of(&"b.example".parse().expect("a host"));
        assert_eq!(all.0.lock().expect("a lock").len(), 1, "nothing is left of what is gone");
        drop(other);
    }
}
