//! Lists, in pages and selections.

use serde_json::{Value, json};

use super::{METADATA_LIST, World, label, names};
use crate::on_both;

on_both!(
    a_list_comes_in_pages_of_one_version,
    pages_show_the_state_at_the_first_of_them,
    a_selection_is_listed_and_its_last_page_may_be_empty,
    any_version_is_listed_without_pages,
    a_version_that_is_not_reached_is_waited_for_a_while,
    a_list_may_be_of_metadata_only,
    what_is_no_query_is_refused,
    an_empty_namespace_has_an_empty_list,
    selectors_select,
);

fn next(list: &Value) -> String {
    list["metadata"]["continue"].as_str().unwrap_or_default().to_owned()
}

async fn list(world: &World, query: &str) -> Value {
    world.get(&format!("?{query}"), "application/json").await.expect("a list")
}

async fn a_list_comes_in_pages_of_one_version(world: World) {
    world.create(&["e", "b", "d", "a", "c"]).await;
    let first = list(&world, "limit=2").await;
    assert_eq!((&first["kind"], &first["apiVersion"]), (&json!("WorkflowList"), &json!("argoproj.io/v1alpha1")));
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    let second = list(&world, &format!("limit=2&continue={}", next(&first))).await;
    assert_eq!((names(&second), &second["metadata"]["remainingItemCount"]), (vec!["c", "d"], &json!(1)));
    let third = list(&world, &format!("limit=2&continue={}", next(&second))).await;
    assert_eq!((names(&third), next(&third)), (vec!["e"], String::new()));
    assert_eq!(third["metadata"].get("remainingItemCount"), None);
    for page in [&second, &third] {
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    }
    let all = list(&world, "limit=5").await;
    assert_eq!((names(&all).len(), next(&all)), (5, String::new()));
}

async fn pages_show_the_state_at_the_first_of_them(world: World) {
    world.create(&["a", "b", "c", "d"]).await;
    let first = list(&world, "limit=1").await;
    world.workflows.delete("b").await;
    world.create(&["e"]).await;
    world.patch("c", label("l", json!("new"))).await.expect("accepted");
    let rest = list(&world, &format!("limit=10&continue={}", next(&first))).await;
    assert_eq!(names(&rest), ["b", "c", "d"]);
    assert_eq!(rest["items"][1]["metadata"]["labels"]["l"], "c");
    assert_eq!(names(&list(&world, "").await), ["a", "c", "d", "e"]);
}

async fn a_selection_is_listed_and_its_last_page_may_be_empty(world: World) {
    world.create(&["a", "b", "c"]).await;
    let page = list(&world, "limit=1&labelSelector=l%3Da").await;
    assert_eq!((names(&page), page["metadata"].get("remainingItemCount")), (vec!["a"], None));
    assert_ne!(next(&page), "", "whether the others match has not been looked at");
    let rest = list(&world, &format!("limit=1&labelSelector=l%3Da&continue={}", next(&page))).await;
    assert_eq!((names(&rest), next(&rest)), (vec![], String::new()));
    let whole = list(&world, "limit=2&labelSelector=l%3Dc").await;
    assert_eq!((names(&whole), next(&whole)), (vec!["c"], String::new()));
}

async fn any_version_is_listed_without_pages(world: World) {
    world.create(&["a", "b", "c"]).await;
    // What is written may not have come to the cache yet, from which this is answered: a fresh list waits for it.
    list(&world, "").await;
    let page = list(&world, "limit=1&resourceVersion=0").await;
    assert_eq!((names(&page).len(), next(&page)), (3, String::new()));
}

async fn a_version_that_is_not_reached_is_waited_for_a_while(world: World) {
    let refusal = world.get("?resourceVersion=99999999", "*/*").await.expect_err("far away");
    assert_eq!((refusal.code, &*refusal.reason), (504, "Timeout"));
    assert!(refusal.message.starts_with("Timeout: Too large resource version: 99999999, current: "), "{refusal:?}");
}

async fn a_list_may_be_of_metadata_only(world: World) {
    world.create(&["a"]).await;
    let list = world.get("", METADATA_LIST).await.expect("a list");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")));
    let item = &list["items"][0];
    assert_eq!((&item["kind"], &item["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
    assert_eq!((&item["metadata"]["labels"], item.get("spec")), (&json!({"l": "a"}), None));
}

async fn what_is_no_query_is_refused(world: World) {
    for query in ["labelSelector=a%20b", "labelSelector=%3D%3D", "labelSelector=a+in+(b", "continue=nonsense&limit=1"] {
        let refusal = world.get(&format!("?{query}"), "*/*").await.expect_err(query);
        assert_eq!((refusal.code, &*refusal.reason), (400, "BadRequest"), "{query}");
    }
    for query in ["limit=abc", "resourceVersion=abc"] {
        assert_eq!(world.get(&format!("?{query}"), "*/*").await.expect_err(query).code, 400, "{query}");
    }
    let refusal = world.get("", "application/xml").await.expect_err("no such form");
    assert_eq!((refusal.code, &*refusal.reason), (406, "NotAcceptable"));
}

async fn an_empty_namespace_has_an_empty_list(world: World) {
    assert!(names(&list(&world, "limit=5").await).is_empty());
}

async fn selectors_select(world: World) {
    world.create(&["a", "b", "c"]).await;
    world.patch("c", label("pipeline/runid", json!("1"))).await.expect("accepted");
    for (selector, selected) in [
        ("l", vec!["a", "b", "c"]),
        ("!pipeline/runid", vec!["a", "b"]),
        ("pipeline/runid,l!=a", vec!["c"]),
        ("l in (a,c),l notin (c)", vec!["a"]),
        ("pipeline/runid!=1", vec!["a", "b"]),
        ("l==b", vec!["b"]),
        ("other=", vec![]),
    ] {
        let query: String = selector.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(names(&list(&world, &format!("labelSelector={query}")).await), selected, "{selector}");
    }
}
