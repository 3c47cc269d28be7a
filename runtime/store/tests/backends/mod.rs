//! Stores to run the suites against.
#![allow(dead_code, reason = "each suite uses a part")]

use std::any::Any;
use std::sync::Arc;

use skysail_store::{Embedded, Store};

/// A fresh, empty store, and what must live as long as it.
pub struct Fresh {
    pub store: Arc<dyn Store>,
    _kept: Box<dyn Any + Send>,
}

pub async fn embedded() -> Fresh {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Embedded::open(directory.path().join("store.db")).expect("a new store file");
    Fresh {
        store: Arc::new(store),
        _kept: Box::new(directory),
    }
}

pub async fn in_memory() -> Fresh {
    Fresh {
        store: Arc::new(Embedded::in_memory().expect("a store in memory")),
        _kept: Box::new(()),
    }
}
