//! Calls to the API that work for every kind, cluster-wide or in a namespace.

use crate::{Error, Object, Resource, merge_diff};
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

fn request<K: Resource>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

fn built(
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<http::Request<Vec<u8>>, Error> {
    request.map_err(|e| Error::Transient(format!("cannot form a request: {e}")))
}

/// Reads the object; `Ok(None)` means that it certainly is not there.
pub async fn get<K: Resource>(
    client: &Client,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<K>, Error> {
    match client
        .request::<K>(built(
            request::<K>(namespace).get(name, &GetParams::default()),
        )?)
        .await
    {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What a create met.
#[derive(Debug, Clone)]
pub enum Made<K> {
    /// The object is there now, by this call.
    New(K),
    /// An object of that name was there; it is as it was.
    Taken(K),
}

impl<K> Made<K> {
    /// The object.
    pub fn into_object(self) -> K {
        match self {
            Self::New(object) | Self::Taken(object) => object,
        }
    }
}

/// Creates the object unless one of its name is there. The store decides: of many at once, one gets [`Made::New`].
pub async fn create_if_absent<K: Resource>(
    client: &Client,
    manager: &str,
    object: &K,
) -> Result<Made<K>, Error> {
    let namespace = object.namespace();
    let params = PostParams {
        field_manager: Some(manager.to_owned()),
        ..PostParams::default()
    };
    let body =
        serde_json::to_vec(object).map_err(|e| Error::refused("Unwritable", e.to_string()))?;
    match client
        .request::<K>(built(
            request::<K>(namespace.as_deref()).create(&params, body),
        )?)
        .await
    {
        Ok(made) => Ok(Made::New(made)),
        Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
            match get(client, namespace.as_deref(), &object.name_any()).await? {
                Some(there) => Ok(Made::Taken(there)),
                None => Err(Error::Conflict(format!(
                    "{} came and went",
                    object.name_any()
                ))),
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Deletes exactly this object (by uid): a newer one of the same name stays. Nothing happens if it is gone.
pub async fn delete_if_present<K: Resource>(client: &Client, object: &K) -> Result<(), Error> {
    let preconditions = Preconditions {
        uid: object.uid(),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    let call =
        built(request::<K>(object.namespace().as_deref()).delete(&object.name_any(), &params))?;
    match client.request_text(call).await {
        Ok(_) => Ok(()),
        // 409: the uid differs, so the one that was meant is gone.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Merges `patch` (without `metadata.resourceVersion`) into exactly the version of `object` that was read.
pub async fn patch_meta<K: Resource>(
    client: &Client,
    manager: &str,
    object: &K,
    mut patch: Value,
) -> Result<K, Error> {
    set_version(&mut patch, object);
    let params = PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    };
    let call = request::<K>(object.namespace().as_deref()).patch(
        &object.name_any(),
        &params,
        &Patch::Merge(patch),
    );
    Ok(client.request::<K>(built(call)?).await?)
}

/// Writes what differs between the status of `object` and `status`, if `object` is still the newest version.
/// `Ok(None)` where nothing differs.
pub async fn write_status<K: Object>(
    client: &Client,
    manager: &str,
    object: &K,
    status: &K::Status,
) -> Result<Option<K>, Error> {
    let value = |s: &K::Status| {
        serde_json::to_value(s).map_err(|e| Error::refused("Unwritable", e.to_string()))
    };
    let unset = K::Status::default();
    let old = object.status().unwrap_or(&unset);
    if old == status {
        return Ok(None);
    }
    let before = if object.status().is_some() {
        value(old)?
    } else {
        json!({})
    };
    let Some(diff) = merge_diff(&before, &value(status)?) else {
        return Ok(None);
    };
    let mut patch = json!({ "status": diff });
    set_version(&mut patch, object);
    let params = PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    };
    let call = request::<K>(object.namespace().as_deref()).patch_subresource(
        "status",
        &object.name_any(),
        &params,
        &Patch::Merge(patch),
    );
    Ok(Some(client.request::<K>(built(call)?).await?))
}

fn set_version<K: Resource>(patch: &mut Value, object: &K) {
    if let Value::Object(map) = patch {
        let meta = map.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(meta) = meta {
            meta.insert("resourceVersion".into(), json!(object.resource_version()));
        }
    }
}
