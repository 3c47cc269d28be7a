//! Removes images that give way, as [`evict`] says.

use super::evict::{self, Cached, Space};
use super::{Images, remove};
use jiff::Timestamp;
use skysail_reconcile::CancellationToken;
use skysail_schemas::Image;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::time::Duration;

/// How often it is looked for images that give way.
const SWEEP: Duration = Duration::from_secs(300);

impl Images {
    /// Removes what gives way until `shutdown`; `used` are the images of the containers on record.
    pub async fn keep_tidy(
        &self,
        used: impl Fn() -> BTreeSet<String>,
        shutdown: CancellationToken,
    ) {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = sweep.tick() => self.tidy(&used, Timestamp::now()).await,
            }
        }
    }

    /// Removes what gives way now.
    pub async fn tidy(&self, used: &impl Fn() -> BTreeSet<String>, now: Timestamp) {
        let in_use = used();
        for digest in &in_use {
            // Not here yet is fine.
            let _ = self.touch(digest, now);
        }
        let cached = self.cached();
        if cached.iter().all(|c| in_use.contains(&c.digest)) {
            return;
        }
        let listed = self.listed().await;
        let plan = evict::plan(&cached, &in_use, listed.as_ref(), self.space(), now);
        for digest in &plan.gone {
            self.evict(digest, used, "gone from the API");
        }
        for digest in &plan.spare {
            if self.space() == Space::Enough {
                break;
            }
            self.evict(digest, used, "the disk is short");
        }
    }

    fn space(&self) -> Space {
        let (total, free) = crate::usage::machine::disk(&self.root);
        Space::of(total, free)
    }

    fn touch(&self, digest: &str, now: Timestamp) -> io::Result<()> {
        File::open(self.directory(digest))?.set_modified(now.into())
    }

    fn cached(&self) -> Vec<Cached> {
        let used = |digest: &String| {
            let modified = std::fs::metadata(self.directory(digest)).and_then(|m| m.modified());
            Timestamp::try_from(modified.ok()?).ok()
        };
        let all = self.present().into_iter();
        all.filter_map(|digest| {
            Some(Cached {
                used: used(&digest)?,
                digest,
            })
        })
        .collect()
    }

    /// Digests that the API knows; none if it cannot be asked.
    async fn listed(&self) -> Option<BTreeSet<String>> {
        let api: kube::Api<Image> = kube::Api::all(self.client.clone());
        let list = api.list(&kube::api::ListParams::default()).await;
        let list = list
            .inspect_err(|error| tracing::debug!(%error, "images could not be listed"))
            .ok()?;
        let digests = list.items.into_iter().filter_map(|i| i.status?.digest);
        Some(digests.collect())
    }

    /// Takes an image out of use, then makes sure that nobody had just come to use it: a container puts its image
    /// on record before it mounts it.
    fn evict(&self, digest: &str, used: &impl Fn() -> BTreeSet<String>, why: &str) {
        let (place, aside) = (
            self.directory(digest),
            self.root
                .join(format!("new-gone-{}", digest.replace(':', "-"))),
        );
        if let Err(error) = std::fs::rename(&place, &aside) {
            tracing::warn!(digest, %error, "an image could not be set aside");
            return;
        }
        if used().contains(digest) && std::fs::rename(&aside, &place).is_ok() {
            return;
        }
        tracing::info!(digest, why, "image is removed");
        remove(&aside);
        self.changed.send_modify(|n| *n += 1);
    }
}
