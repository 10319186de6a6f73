//! Subscribers whose end the server sees at once.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use futures::StreamExt as _;
use model_update_eventsource::eventsource::Subscriber;
use test_support::{GrpcGoClient, RunningServer, Tally, TcpProxy, model_location, report};
use tokio::time::{Instant, interval, timeout, timeout_at};

use super::STEADY;
use crate::scene::{SOON, Scene, run_of, take, take_all, take_rest};

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_killed_subscriber_gets_again_what_it_had_not_confirmed_and_nothing_else() {
    let scene = Scene::open().await;
    let program = scene.program(&[]).await;
    let address = program.listen;
    breaks(&scene, &program, address, Tally::new("subscriber SIGKILLed"), async |client| client.kill()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_half_closing_subscriber_can_prove_nothing_more_and_gets_again_what_it_had_not_confirmed() {
    let scene = Scene::open().await;
    let program = scene.program(&[]).await;
    let mut wire = TcpProxy::start(program.listen).await;
    let address = wire.address;
    breaks(&scene, &program, address, Tally::new("subscriber half-closes"), async |_| {
        wire.half_close();
        timeout(SOON, wire.closed()).await.expect("the server closes its side, too");
    })
    .await;
}

/// A subscriber confirms some runs and is amid others when this breaks its stream; then its successor comes.
async fn breaks(
    scene: &Scene,
    program: &RunningServer,
    address: SocketAddr,
    mut tally: Tally,
    break_it: impl AsyncFnOnce(&mut GrpcGoClient),
) {
    let both = [STEADY, "broken"];
    let mut steady = scene.subscriber(program, STEADY).await;
    let mut broken = scene.subscriber_at(address, "broken").await;
    let confirmed = scene.succeed(&mut tally, &both, 10).await;
    take_all(&mut broken, "broken", &mut tally).await;
    scene.marked(&confirmed, &both).await;

    let open = scene.succeed(&mut tally, &both, 20).await;
    let mut received = BTreeSet::new();
    while received.len() < 10 {
        received.insert(take(&mut broken, "broken", &mut tally).await);
    }
    break_it(&mut broken).await;
    program.logged_for("stream ended", "broken").await;
    program.metric_is("modelupdate_connections", &[], 1.0).await;
    received.extend(take_rest(&mut broken, "broken", &mut tally));
    program.metric_is("modelupdate_marks_pending", &[], 0.0).await;
    // The only ones that may come twice: received, and not confirmed when the stream ended.
    let mut again = 0;
    for location in received.iter().filter(|location| open.iter().any(|run| run == run_of(location))) {
        again += usize::from(!scene.marks(run_of(location)).await.contains("broken"));
    }

    let mut successor = scene.subscriber(program, "broken").await;
    take_all(&mut successor, "broken", &mut tally).await;
    take_all(&mut steady, STEADY, &mut tally).await;
    scene.marked(&[confirmed, open].concat(), &both).await;
    take_rest(&mut successor, "broken", &mut tally);
    take_rest(&mut steady, STEADY, &mut tally);
    assert_eq!(tally.duplicated(), again, "each that was received and not confirmed comes again, and no other");
    tally.conclude(again);
}

/// For how long a subscriber comes and goes: `MODEL_UPDATE_RECONNECTING=60s` makes it the minute of the long form.
fn reconnecting() -> Duration {
    let chosen = std::env::var("MODEL_UPDATE_RECONNECTING").ok();
    chosen.map_or(Duration::from_secs(9), |text| humantime::parse_duration(&text).expect("a duration, such as 60s"))
}

/// Its client is the product's own, which can come and go within one process; as many of grpc-go's would be a test of
/// how fast processes start.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_subscriber_that_reconnects_every_100_ms_costs_nobody_anything_and_gets_all_in_the_end() {
    const A_STREAM: Duration = Duration::from_millis(100);
    let scene = Scene::open().await;
    let mut tally = Tally::new("subscriber reconnects every 100 ms");
    // No stream of its lasts long enough for a confirmation.
    let program = scene.program(&["--confirm-after=200ms"]).await;
    let mut steady = scene.subscriber(&program, STEADY).await;
    let both = [STEADY, "restless"];
    let lasting = reconnecting();
    let end = Instant::now() + lasting;

    let mut received = Vec::new();
    let comes_and_goes = async {
        let mut resident = None;
        let mut streams = 0;
        while Instant::now() < end {
            let mut client = Subscriber::connect(format!("http://{}", program.listen)).await.expect("connected");
            let mut events = client.subscribe("restless", &scene.config()).await.expect("taken");
            let leaves = Instant::now() + A_STREAM;
            while let Ok(event) = timeout_at(leaves, events.next()).await {
                let event = event.expect("the server does not end it").expect("an event");
                received.push(model_location(std::str::from_utf8(&event.payload).expect("text")));
            }
            streams += 1;
            // After the first second nothing is new to the server.
            if streams == 10 {
                resident = Some(program.resident_kib());
            }
        }
        (streams, resident.expect("many streams"))
    };
    let mut runs = Vec::new();
    let succeed = async {
        let mut ticks = interval(lasting / 20);
        while runs.len() < 20 {
            ticks.tick().await;
            runs.extend(scene.succeed(&mut tally, &both, 1).await);
            // On its way to the others while the restless one comes and goes.
            take(&mut steady, STEADY, &mut tally).await;
        }
    };
    let ((streams, before), ()) = tokio::join!(comes_and_goes, succeed);
    received.iter().for_each(|location| tally.delivered("restless", location));
    let came = received.len();
    program.metric_is("modelupdate_subscribers", &[], 1.0).await;
    program.metric_is("modelupdate_connections", &[], 1.0).await;
    let grown = program.resident_kib().saturating_sub(before);

    let mut settled = scene.subscriber(&program, "restless").await;
    scene.marked_within(3 * lasting, &runs, &both).await;
    take_rest(&mut settled, "restless", &mut tally);
    report(format_args!(
        "  {streams} streams in {lasting:?}, {came} deliveries of 20 runs to them; memory grew by {grown} KiB"
    ));
    assert!(grown < 4 * 1024, "{grown} KiB");
    // A run is tried on three streams, and then ever more rarely.
    assert!(came <= 20 * 7, "{came}");
    tally.conclude(came);
}
