//! Health and reflection on the gRPC port.

use test_support::{CATCH_UP, TestServer};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

fn channel(server: &TestServer) -> Channel {
    Endpoint::from_shared(format!("http://{}", server.address)).expect("a URL").connect_lazy()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness_until_the_drain() {
    let (_sim, server) = TestServer::start_with_sim().await;
    let mut client = HealthClient::new(channel(&server));
    for service in ["", "generic.Eventing"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut watch = client.watch(request).await.expect("a known service").into_inner();
        let serving = |status: i32| status == i32::from(ServingStatus::Serving);
        let statuses = async { while !serving(watch.message().await.expect("no error").expect("a status").status) {} };
        timeout(CATCH_UP, statuses).await.expect("SERVING in time");
    }
    let mut watch = client.watch(HealthCheckRequest::default()).await.expect("a known service").into_inner();
    let ended = async {
        loop {
            match watch.message().await {
                Ok(Some(answer)) if answer.status == i32::from(ServingStatus::NotServing) => return true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
    };
    let ((), not_serving) = tokio::join!(server.stop(), ended);
    assert!(not_serving, "NOT_SERVING is sent before the stream ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_reflection_list_only_the_served_services() {
    let (_sim, server) = TestServer::start_with_sim().await;
    let channel = channel(&server);

    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(futures::stream::iter([request])).await.expect("v1 is served");
    let answer = answers.into_inner().message().await.expect("no error").expect("an answer");
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer.message_response
    else {
        panic!("not a list: {answer:?}")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["generic.Eventing", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("ml_metadata")), "{names:?}");

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let symbol =
        v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol("generic.Eventing".to_owned());
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    let answers = client.server_reflection_info(futures::stream::iter([request])).await.expect("v1alpha is served");
    let answer = answers.into_inner().message().await.expect("no error").expect("an answer");
    assert!(
        matches!(
            answer.message_response,
            Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
        ),
        "{answer:?}"
    );
}
