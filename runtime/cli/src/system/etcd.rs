//! State in etcd: the flags that say where it is.

use anyhow::{Context, Result};
use skysail_store::etcd::{Options, Tls};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Flags of `up` and `server`.
#[derive(Debug, Clone, clap::Args)]
pub struct Etcd {
    /// Store state in this etcd cluster instead of the embedded store (comma-separated endpoints)
    #[arg(long = "etcd", value_name = "URLS", value_delimiter = ',')]
    pub urls: Vec<String>,
    /// Certificate of the authority that signed etcd's (PEM); for https:// endpoints
    #[arg(long = "etcd-ca", value_name = "FILE", requires = "urls")]
    ca: Option<PathBuf>,
    /// Certificate to show to an etcd that asks for one (PEM)
    #[arg(long = "etcd-cert", value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long = "etcd-key", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Etcd {
    /// Whether state is in etcd.
    pub fn is_used(&self) -> bool {
        !self.urls.is_empty()
    }

    /// The same flags for a server in the same working folder.
    pub fn flags(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = vec![];
        if self.is_used() {
            flags.extend(["--etcd".into(), self.urls.join(",").into()]);
        }
        for (flag, file) in [
            ("--etcd-ca", &self.ca),
            ("--etcd-cert", &self.cert),
            ("--etcd-key", &self.key),
        ] {
            flags.extend(file.iter().flat_map(|f| [flag.into(), f.clone().into()]));
        }
        flags
    }

    /// How the store reaches it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn options(&self) -> Result<Options> {
        let read = |p: &Path| std::fs::read(p).with_context(|| format!("reading {}", p.display()));
        let tls = match &self.ca {
            None => None,
            Some(ca) => Some(Tls {
                ca: read(ca)?,
                identity: match (&self.cert, &self.key) {
                    (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
                    _ => None,
                },
            }),
        };
        Ok(Options {
            endpoints: self.urls.clone(),
            user: None,
            tls,
        })
    }
}
