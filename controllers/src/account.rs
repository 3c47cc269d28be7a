//! From a Cloud to its driver: with the Secret that it names, read from the cache at each use, so
//! that a changed Secret counts from the next call on.
//!
//! Credentials go from the Secret into the driver and nowhere else: no status, event or log has them.

use crate::{Context, host::reaction};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use skysail_clouds::{
    Driver,
    open::{self, Account},
};
use skysail_reconcile::Error;
use skysail_schemas::Cloud;

/// Reason of a refusal for want of the Secret.
pub const SECRET_NOT_FOUND: &str = "SecretNotFound";

/// The driver of `cloud`.
pub fn open(context: &Context, cloud: &Cloud) -> Result<Box<dyn Driver>, Error> {
    let mut account = Account::new(
        &cloud.name_any(),
        &cloud.uid().unwrap_or_default(),
        &cloud.spec,
    );
    if let Some(reference) = &cloud.spec.credentials {
        let name = format!("Secret {}/{}", reference.namespace, reference.secret);
        let found = context
            .secrets
            .get(Some(&reference.namespace), &reference.secret)
            .filter(|s| s.metadata.deletion_timestamp.is_none());
        let secret = found.ok_or_else(|| {
            let way_out = format!(
                "kubectl create secret generic {} -n {} --from-literal=…",
                reference.secret, reference.namespace
            );
            Error::refused(
                SECRET_NOT_FOUND,
                format!("there is no {name}, which spec.credentials names; make it ({way_out})"),
            )
        })?;
        account.secret = Some(content(name, &secret));
    }
    open::cloud(&account, &context.settings.site).map_err(|e| reaction(&e))
}

fn content(name: String, secret: &Secret) -> open::Secret {
    let data = secret.data.iter().flatten();
    open::Secret {
        name,
        data: data.map(|(k, v)| (k.clone(), v.0.clone())).collect(),
    }
}

/// Whether `cloud` names `secret`.
pub fn uses(cloud: &Cloud, secret: &Secret) -> bool {
    cloud.spec.credentials.as_ref().is_some_and(|r| {
        r.secret == secret.name_any() && secret.namespace().as_ref() == Some(&r.namespace)
    })
}
