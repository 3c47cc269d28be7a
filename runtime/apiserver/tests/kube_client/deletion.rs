//! What holds an object, and what goes with it.

use super::*;

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_done() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    api.create(&PostParams::default(), &config_map("a"))
        .await
        .expect("made");
    let step = |event| async move {
        match event {
            Finalizer::Apply(_) | Finalizer::Cleanup(_) => {
                Ok::<_, std::convert::Infallible>(kube::runtime::controller::Action::await_change())
            }
        }
    };
    let object = Arc::new(api.get("a").await.expect("there"));
    finalizer(&api, "skysail.dev/test", object, step)
        .await
        .expect("finalizer added");
    api.delete("a", &DeleteParams::default())
        .await
        .expect("marked");
    let marked = api.get("a").await.expect("still there");
    assert!(marked.metadata.deletion_timestamp.is_some());
    finalizer(&api, "skysail.dev/test", Arc::new(marked), step)
        .await
        .expect("finalizer removed");
    assert_eq!(code(api.get("a").await.expect_err("gone")).0, 404);
}

#[tokio::test]
async fn a_deleted_namespace_is_swept() {
    let running = Running::start().await;
    running.namespace("acme").await;
    let api: Api<Container> = Api::namespaced(running.admin(), "acme");
    api.create(&PostParams::default(), &container("c1"))
        .await
        .expect("made");
    let namespaces: Api<Namespace> = Api::all(running.admin());
    namespaces
        .delete("acme", &DeleteParams::default())
        .await
        .expect("deletion begun");
    until("the namespace is gone", || async {
        namespaces.get_opt("acme").await.expect("asked").is_none()
    })
    .await;
    assert_eq!(code(api.get("c1").await.expect_err("gone")).0, 404);
    let missing = api
        .create(&PostParams::default(), &container("c2"))
        .await
        .expect_err("no namespace");
    assert_eq!(code(missing).0, 404);
    let kept = namespaces
        .delete("default", &DeleteParams::default())
        .await
        .expect_err("kept");
    assert_eq!(code(kept).0, 403);
}

#[tokio::test]
async fn dependents_go_with_their_owner_as_the_policy_says() {
    let running = Running::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(running.admin());
    for (policy, stays) in [
        (PropagationPolicy::Background, false),
        (PropagationPolicy::Foreground, false),
        (PropagationPolicy::Orphan, true),
    ] {
        let owner = api
            .create(&PostParams::default(), &config_map("owner"))
            .await
            .expect("made");
        let mut dependent = config_map("dependent");
        dependent.metadata.owner_references =
            Some(owner.controller_owner_ref(&()).into_iter().collect());
        api.create(&PostParams::default(), &dependent)
            .await
            .expect("made");
        let params = DeleteParams {
            propagation_policy: Some(policy.clone()),
            ..DeleteParams::default()
        };
        api.delete("owner", &params).await.expect("deleted");
        until("the owner is gone", || async {
            api.get_opt("owner").await.expect("asked").is_none()
        })
        .await;
        if stays {
            let left = api.get("dependent").await.expect("left behind");
            assert_eq!(left.metadata.owner_references.unwrap_or_default(), vec![]);
        } else {
            until("the dependent is gone", || async {
                api.get_opt("dependent").await.expect("asked").is_none()
            })
            .await;
        }
    }
}
