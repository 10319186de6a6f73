use proptest::prelude::*;

use super::*;

const Q: PingPayload = *b"12345678";
const R: PingPayload = *b"87654321";

/// A ledger with stream 1 open and watched.
fn watched() -> (Ledger, watch::Receiver<u64>) {
    let mut ledger = Ledger::default();
    ledger.open(1);
    let receiver = ledger.watch(1).expect("an account");
    (ledger, receiver)
}

fn ping(ledger: &mut Ledger, payload: PingPayload) {
    ledger.ping_begun(Instant::now(), payload);
    ledger.ping_written();
}

/// Closed, as far as the receiver can tell.
fn is_closed(receiver: &watch::Receiver<u64>) -> bool {
    receiver.has_changed().is_err()
}

#[test]
fn an_acknowledged_ping_proves_what_was_written_before_it_and_no_more() {
    let (mut ledger, receiver) = watched();
    ledger.expect(1, 100);
    ledger.expect(1, 250);
    ledger.data_written(1, 100);
    ping(&mut ledger, Q);
    ledger.data_written(1, 150);
    assert_eq!(*receiver.borrow(), 0);
    assert!(ledger.acknowledged(Q));
    assert_eq!(*receiver.borrow(), 100);
    ping(&mut ledger, R);
    assert!(ledger.acknowledged(R));
    assert_eq!(*receiver.borrow(), 250);
}

#[test]
fn octets_of_one_stream_prove_nothing_of_another() {
    let (mut ledger, receiver) = watched();
    ledger.open(3);
    let other = ledger.watch(3).expect("an account");
    ledger.expect(1, 100);
    ledger.expect(3, 10);
    ledger.data_written(3, 5_000);
    ping(&mut ledger, Q);
    assert!(ledger.acknowledged(Q));
    assert_eq!((*receiver.borrow(), *other.borrow()), (0, 5_000));
}

#[test]
fn only_the_exact_acknowledgement_of_a_ping_that_is_out_counts() {
    let (mut ledger, receiver) = watched();
    ledger.expect(1, 100);
    ledger.data_written(1, 100);
    assert!(!ledger.acknowledged(Q), "unsolicited");
    ledger.ping_begun(Instant::now(), Q);
    assert!(!ledger.acknowledged(Q), "not written whole");
    ledger.ping_written();
    assert!(!ledger.acknowledged(R), "another payload");
    assert_eq!(*receiver.borrow(), 0);
    assert!(ledger.acknowledged(Q));
    assert!(!ledger.acknowledged(Q), "a second time");
    assert_eq!(*receiver.borrow(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_due_only_where_wanted_octets_are_written_and_unproven() {
    let (mut ledger, receiver) = watched();
    let now = Instant::now();
    assert_eq!(ledger.due(now), Due::No, "nothing written, nothing wanted");
    ledger.data_written(1, 100);
    assert_eq!(ledger.due(now), Due::No, "not wanted");
    assert!(!ledger.expect(1, 150), "not written");
    assert_eq!(ledger.due(now), Due::No);
    ledger.data_written(1, 50);
    assert_eq!(ledger.due(now), Due::Now);
    ping(&mut ledger, Q);
    ledger.data_written(1, 50);
    assert!(ledger.expect(1, 200), "written already: the task must be woken");
    assert_eq!(ledger.due(now), Due::No, "one at a time");
    assert!(ledger.acknowledged(Q));
    assert_eq!(ledger.due(now), Due::At(now + PING_INTERVAL), "not so soon");
    assert_eq!(ledger.due(now + PING_INTERVAL), Due::Now);
    drop(receiver);
    assert_eq!(ledger.due(now + PING_INTERVAL), Due::No, "nobody listens");
}

#[test]
fn a_reset_closes_the_account_though_an_acknowledgement_follows() {
    let (mut ledger, receiver) = watched();
    ledger.expect(1, 100);
    ledger.data_written(1, 100);
    ping(&mut ledger, Q);
    ledger.reset(1);
    assert!(is_closed(&receiver));
    assert!(ledger.acknowledged(Q), "it is taken out all the same");
    assert_eq!(*receiver.borrow(), 0);
    assert!(ledger.watch(1).is_none());
    assert!(!ledger.expect(1, 200));
}

#[test]
fn the_end_of_the_connection_closes_every_account() {
    let (mut ledger, receiver) = watched();
    ledger.expect(1, 100);
    ledger.data_written(1, 100);
    ping(&mut ledger, Q);
    ledger.end();
    assert!(is_closed(&receiver));
    ledger.acknowledged(Q);
    assert_eq!(*receiver.borrow(), 0);
    ledger.open(3);
    assert!(ledger.watch(3).is_none(), "none is opened any more");
}

#[test]
fn a_stream_that_we_end_stays_until_what_is_wanted_is_proven() {
    let (mut ledger, receiver) = watched();
    ledger.expect(1, 100);
    ledger.expect(1, 200);
    ledger.data_written(1, 150);
    ledger.end_written(1);
    assert!(!is_closed(&receiver));
    assert!(!ledger.expect(1, 300), "never to be written");
    ping(&mut ledger, Q);
    assert!(ledger.acknowledged(Q));
    assert_eq!(*receiver.borrow(), 150);
    assert!(is_closed(&receiver), "200 can never be proven");
}

#[test]
fn a_stream_that_we_end_is_forgotten_where_nothing_is_wanted() {
    let (mut ledger, receiver) = watched();
    ledger.data_written(1, 150);
    ledger.end_written(1);
    assert!(is_closed(&receiver));
    ledger.open(3);
    ledger.end_written(3);
    assert!(ledger.streams.is_empty());
}

#[test]
fn a_stream_that_nobody_listens_to_does_not_linger() {
    let (mut ledger, receiver) = watched();
    ledger.expect(1, 100);
    ledger.data_written(1, 100);
    drop(receiver);
    ledger.end_written(1);
    assert!(ledger.streams.is_empty());
}

#[test]
fn totals_that_do_not_ascend_are_covered_by_those_before() {
    let (mut ledger, receiver) = watched();
    ledger.expect(1, 200);
    ledger.expect(1, 100);
    ledger.data_written(1, 100);
    assert_eq!(ledger.due(Instant::now()), Due::No);
    ledger.data_written(1, 100);
    ping(&mut ledger, Q);
    ledger.acknowledged(Q);
    assert_eq!(*receiver.borrow(), 200);
    assert!(!ledger.expect(1, 150), "proven already");
    assert_eq!(ledger.due(Instant::now() + PING_INTERVAL), Due::No);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut ledger = Ledger::default();
    for id in 0..5_000 {
        ledger.open(2 * id + 1);
    }
    assert_eq!(ledger.streams.len(), MAX_STREAMS);
    assert!(!ledger.has_room());

    let (mut ledger, _receiver) = watched();
    for total in 1..=1_000 {
        ledger.expect(1, total);
    }
    let watcher = ledger.streams[0].watcher.as_ref().expect("watched");
    assert_eq!(watcher.wanted.len(), MAX_WANTED);
    assert_eq!(watcher.wanted.back(), Some(&1_000), "the newest is not lost");
}

#[test]
fn a_stream_is_small() {
    assert!(size_of::<Stream>() <= 32, "{}", size_of::<Stream>());
    assert!(size_of::<Ledger>() <= 80, "{}", size_of::<Ledger>());
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Data(usize, u32),
    Expect(usize, u64),
    EndWritten(usize),
    Reset(usize),
    Begin,
    Acknowledge,
    Forge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Open),
        6 => (0..4_usize, 0..2_000_u32).prop_map(|(stream, octets)| Step::Data(stream, octets)),
        6 => (0..4_usize, 0..3_000_u64).prop_map(|(stream, ahead)| Step::Expect(stream, ahead)),
        1 => (0..4_usize).prop_map(Step::EndWritten),
        1 => (0..4_usize).prop_map(Step::Reset),
        4 => Just(Step::Begin),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::Forge),
    ];
    proptest::collection::vec(step, 1..120)
}

/// What the rule says of one stream, written down the plain way.
struct Model {
    receiver: watch::Receiver<u64>,
    written: u64,
    /// Counted when the outstanding PING was begun.
    pinged: u64,
    proven: u64,
    wanted: Vec<u64>,
    ended: bool,
    closed: bool,
}

proptest! {
    #[test]
    fn whatever_happens_the_rule_holds(steps in steps()) {
        let mut ledger = Ledger::default();
        let mut streams: Vec<Model> = Vec::new();
        let mut outstanding = None;
        let mut pings = 0_u64;
        let mut now = Instant::now();
        let id = |index: usize| 2 * u32::try_from(index).expect("small") + 1;
        for step in steps {
            match step {
                Step::Open if streams.len() < 4 => {
                    ledger.open(id(streams.len()));
                    let receiver = ledger.watch(id(streams.len())).expect("open");
                    streams.push(Model {
                        receiver, written: 0, pinged: 0, proven: 0, wanted: Vec::new(), ended: false, closed: false,
                    });
                }
                Step::Data(index, octets) => if let Some(model) = streams.get_mut(index).filter(|model| !model.ended) {
                    ledger.data_written(id(index), octets);
                    model.written += u64::from(octets);
                },
                Step::Expect(index, ahead) => if let Some(model) = streams.get_mut(index) {
                    let total = model.written + ahead;
                    ledger.expect(id(index), total);
                    if total > model.wanted.last().copied().unwrap_or(model.proven) {
                        model.wanted.push(total);
                    }
                },
                Step::EndWritten(index) => if let Some(model) = streams.get_mut(index) {
                    ledger.end_written(id(index));
                    model.ended = true;
                },
                Step::Reset(index) => if let Some(model) = streams.get_mut(index) {
                    ledger.reset(id(index));
                    model.closed = true;
                },
                Step::Begin => {
                    now += PING_INTERVAL;
                    let due = ledger.due(now) == Due::Now;
                    let wanted = streams.iter().any(|model| {
                        !model.closed && model.wanted.iter().any(|total| (model.proven + 1..=model.written).contains(total))
                    });
                    prop_assert_eq!(due, wanted && outstanding.is_none());
                    if due {
                        pings += 1;
                        outstanding = Some(pings.to_be_bytes());
                        ledger.ping_begun(now, pings.to_be_bytes());
                        ledger.ping_written();
                        for model in &mut streams {
                            model.pinged = model.written;
                        }
                    }
                }
                Step::Acknowledge => if let Some(payload) = outstanding.take() {
                    prop_assert!(ledger.acknowledged(payload));
                    for model in streams.iter_mut().filter(|model| !model.closed) {
                        model.proven = model.pinged;
                    }
                },
                Step::Forge => prop_assert!(!ledger.acknowledged([0xff; 8])),
                Step::Open => {}
            }
            for model in &mut streams {
                let open = model.wanted.iter().any(|total| (model.proven + 1..=model.written).contains(total));
                model.closed |= model.ended && !open;
                prop_assert_eq!(*model.receiver.borrow(), model.proven);
                prop_assert_eq!(is_closed(&model.receiver), model.closed);
            }
        }
    }
}
