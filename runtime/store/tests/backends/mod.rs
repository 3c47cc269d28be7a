//! Stores to run the suites against.
#![allow(dead_code, reason = "each suite uses a part")]

pub mod etcd_process;

use std::any::Any;
use std::sync::Arc;

use skysail_store::{Embedded, Etcd, Store, etcd};

use etcd_process::EtcdProcess;

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

pub async fn etcd() -> Fresh {
    let process = EtcdProcess::start();
    let store = connect(&process).await;
    Fresh {
        store: Arc::new(store),
        _kept: Box::new(process),
    }
}

pub async fn connect(process: &EtcdProcess) -> Etcd {
    let options = etcd::Options {
        endpoints: vec![process.endpoint()],
        user: None,
        tls: None,
    };
    Etcd::connect(options).await.expect("etcd answers")
}
