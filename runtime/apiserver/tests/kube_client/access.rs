//! Who may what.

use super::*;

#[tokio::test]
async fn a_host_reaches_only_what_concerns_it() {
    let running = Running::start().await;
    let admin: Api<Container> = Api::default_namespaced(running.admin());
    for (name, host) in [("mine", "h1"), ("theirs", "h2")] {
        admin
            .create(&PostParams::default(), &container(name))
            .await
            .expect("made");
        let patch = json!({"status": {"host": host}});
        admin
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .expect("bound");
    }
    let agent = running.server.in_process(Identity::host("h1"));
    let all: Api<Container> = Api::all(agent.clone());
    let mine = all
        .list(&ListParams::default().fields("status.host=h1"))
        .await
        .expect("my containers");
    assert_eq!(mine.items.len(), 1);
    for selector in [
        ListParams::default(),
        ListParams::default().fields("status.host=h2"),
    ] {
        assert_eq!(
            code(all.list(&selector).await.expect_err("not mine")).0,
            403
        );
    }
    let api: Api<Container> = Api::default_namespaced(agent.clone());
    assert_eq!(code(api.get("theirs").await.expect_err("not mine")).0, 403);
    let patch = json!({"status": {"pid": 7}});
    api.patch_status("mine", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect("my status");
    let patch = json!({"spec": {"running": false}});
    let refused = api
        .patch("mine", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .expect_err("not the spec");
    assert_eq!(code(refused).0, 403);
    let secrets: Api<Secret> = Api::default_namespaced(agent);
    assert_eq!(
        code(
            secrets
                .list(&ListParams::default())
                .await
                .expect_err("no secrets")
        )
        .0,
        403
    );
}

#[tokio::test]
async fn nobody_without_a_certificate_is_let_in() {
    let running = Running::start().await;
    let client = kube::Client::new(running.server.router(), "default");
    let api: Api<Secret> = Api::default_namespaced(client);
    assert_eq!(
        code(api.list(&ListParams::default()).await.expect_err("nobody")).0,
        401
    );
}
