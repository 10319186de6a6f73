use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

const Q: PingPayload = *b"12345678";
const R: PingPayload = *b"87654321";

/// A tracker with stream 1 open and watched.
fn watched() -> (AckTracker, watch::Receiver<u64>) {
    let mut tracker = AckTracker::default();
    tracker.stream_opened(1);
    let receiver = tracker.watch(1).expect("tracked");
    (tracker, receiver)
}

fn ping(tracker: &mut AckTracker, payload: PingPayload) {
    tracker.ping_started(Instant::now(), payload);
    tracker.ping_written();
}

/// The usage as it is reported.
fn observed(tracker: &mut AckTracker) -> Arc<Mutex<Usage>> {
    let usage = Arc::<Mutex<Usage>>::default();
    let reported = usage.clone();
    tracker.observe(UsageObserver::new(move |usage| *reported.lock().expect("no panic") = usage));
    usage
}

fn is_closed(receiver: &watch::Receiver<u64>) -> bool {
    receiver.has_changed().is_err()
}

/// The end of an untracked stream is not noticed. Nothing is reported at the end of a connection, which may keep its memory
/// for as long as its peer does not read.
#[test]
fn an_untracked_stream_counts_as_open_until_the_connection_ends() {
    let mut tracker = AckTracker::default();
    let usage = observed(&mut tracker);
    let open = || usage.lock().expect("no panic").streams;
    tracker.stream_opened(1);
    tracker.stream_untracked();
    tracker.end_written(1);
    tracker.stream_reset(3);
    assert_eq!(open(), 1);
    tracker.stream_opened(5);
    tracker.close();
    assert_eq!(open(), 2);
}

#[test]
fn a_large_frame_is_reported_with_its_header() {
    let mut tracker = AckTracker::default();
    let usage = observed(&mut tracker);
    tracker.frame_begun(USUAL_FRAME);
    assert_eq!(*usage.lock().expect("no panic"), Usage::default());
    tracker.frame_begun(USUAL_FRAME + 1);
    assert_eq!(*usage.lock().expect("no panic"), Usage { streams: 0, has_large_frames: true });
    tracker.stream_opened(1);
    assert_eq!(*usage.lock().expect("no panic"), Usage { streams: 1, has_large_frames: true });
}

#[test]
fn an_acked_ping_covers_exactly_what_was_written_before_it() {
    let (mut tracker, receiver) = watched();
    tracker.expect(1, 100);
    tracker.expect(1, 250);
    tracker.data_written(1, 100);
    ping(&mut tracker, Q);
    tracker.data_written(1, 150);
    assert_eq!(*receiver.borrow(), 0);
    assert!(tracker.ping_acked(Q));
    assert_eq!(*receiver.borrow(), 100);
    ping(&mut tracker, R);
    assert!(tracker.ping_acked(R));
    assert_eq!(*receiver.borrow(), 250);
}

#[test]
fn bytes_of_one_stream_do_not_count_for_another() {
    let (mut tracker, receiver) = watched();
    tracker.stream_opened(3);
    let other = tracker.watch(3).expect("tracked");
    tracker.expect(1, 100);
    tracker.expect(3, 10);
    tracker.data_written(3, 5_000);
    ping(&mut tracker, Q);
    assert!(tracker.ping_acked(Q));
    assert_eq!((*receiver.borrow(), *other.borrow()), (0, 5_000));
}

#[test]
fn only_the_payload_of_the_ping_in_flight_counts() {
    let (mut tracker, receiver) = watched();
    tracker.expect(1, 100);
    tracker.data_written(1, 100);
    assert!(!tracker.ping_acked(Q), "unsolicited");
    tracker.ping_started(Instant::now(), Q);
    assert!(!tracker.ping_acked(Q), "not completely written");
    tracker.ping_written();
    assert!(!tracker.ping_acked(R), "another payload");
    assert_eq!(*receiver.borrow(), 0);
    assert!(tracker.ping_acked(Q));
    assert!(!tracker.ping_acked(Q), "a second time");
    assert_eq!(*receiver.borrow(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_due_only_for_expected_written_unacked_bytes() {
    let (mut tracker, receiver) = watched();
    let now = Instant::now();
    assert_eq!(tracker.ping_due(now), PingDue::No, "nothing written, nothing expected");
    tracker.data_written(1, 100);
    assert_eq!(tracker.ping_due(now), PingDue::No, "not expected");
    assert!(!tracker.expect(1, 150), "not written");
    assert_eq!(tracker.ping_due(now), PingDue::No);
    tracker.data_written(1, 50);
    assert_eq!(tracker.ping_due(now), PingDue::Now);
    ping(&mut tracker, Q);
    tracker.data_written(1, 50);
    assert!(tracker.expect(1, 200), "written already, so the task must be woken");
    assert_eq!(tracker.ping_due(now), PingDue::No, "one at a time");
    assert!(tracker.ping_acked(Q));
    assert_eq!(tracker.ping_due(now), PingDue::At(now + PING_INTERVAL), "too soon");
    assert_eq!(tracker.ping_due(now + PING_INTERVAL), PingDue::Now);
    drop(receiver);
    assert_eq!(tracker.ping_due(now + PING_INTERVAL), PingDue::No, "no receiver");
}

#[test]
fn a_reset_closes_the_receiver_despite_a_later_ack() {
    let (mut tracker, receiver) = watched();
    tracker.expect(1, 100);
    tracker.data_written(1, 100);
    ping(&mut tracker, Q);
    tracker.stream_reset(1);
    assert!(is_closed(&receiver));
    assert!(tracker.ping_acked(Q), "the acknowledgement is the link's own");
    assert_eq!(*receiver.borrow(), 0);
    assert!(tracker.watch(1).is_none());
    assert!(!tracker.expect(1, 200));
}

#[test]
fn the_end_of_the_connection_closes_every_receiver() {
    let (mut tracker, receiver) = watched();
    tracker.expect(1, 100);
    tracker.data_written(1, 100);
    ping(&mut tracker, Q);
    tracker.close();
    assert!(is_closed(&receiver));
    tracker.ping_acked(Q);
    assert_eq!(*receiver.borrow(), 0);
    tracker.stream_opened(3);
    assert!(tracker.watch(3).is_none(), "no stream is tracked any more");
}

#[test]
fn an_ended_stream_stays_until_its_expected_bytes_are_acked() {
    let (mut tracker, receiver) = watched();
    tracker.expect(1, 100);
    tracker.expect(1, 200);
    tracker.data_written(1, 150);
    tracker.end_written(1);
    assert!(!is_closed(&receiver));
    assert!(!tracker.expect(1, 300), "will never be written");
    ping(&mut tracker, Q);
    assert!(tracker.ping_acked(Q));
    assert_eq!(*receiver.borrow(), 150);
    assert!(is_closed(&receiver), "200 can never be acknowledged");
}

#[test]
fn an_ended_stream_without_expected_bytes_is_dropped() {
    let (mut tracker, receiver) = watched();
    tracker.data_written(1, 150);
    tracker.end_written(1);
    assert!(is_closed(&receiver));
    tracker.stream_opened(3);
    tracker.end_written(3);
    assert!(tracker.streams.is_empty());
}

#[test]
fn an_ended_stream_without_a_receiver_is_dropped() {
    let (mut tracker, receiver) = watched();
    tracker.expect(1, 100);
    tracker.data_written(1, 100);
    drop(receiver);
    tracker.end_written(1);
    assert!(tracker.streams.is_empty());
}

#[test]
fn a_smaller_total_is_covered_by_its_predecessor() {
    let (mut tracker, receiver) = watched();
    tracker.expect(1, 200);
    tracker.expect(1, 100);
    tracker.data_written(1, 100);
    assert_eq!(tracker.ping_due(Instant::now()), PingDue::No);
    tracker.data_written(1, 100);
    ping(&mut tracker, Q);
    tracker.ping_acked(Q);
    assert_eq!(*receiver.borrow(), 200);
    assert!(!tracker.expect(1, 150), "acknowledged already");
    assert_eq!(tracker.ping_due(Instant::now() + PING_INTERVAL), PingDue::No);
}

#[test]
fn memory_is_bounded() {
    let mut tracker = AckTracker::default();
    for id in 0..5_000 {
        tracker.stream_opened(2 * id + 1);
    }
    assert_eq!(tracker.streams.len(), MAX_STREAMS);
    assert!(!tracker.has_room());

    let (mut tracker, _receiver) = watched();
    for total in 1..=1_000 {
        tracker.expect(1, total);
    }
    let watcher = tracker.streams[0].watcher.as_ref().expect("watched");
    assert_eq!(watcher.expected.len(), MAX_EXPECTED);
    assert_eq!(watcher.expected.back(), Some(&1_000), "the newest total is kept");
}

#[test]
fn a_stream_is_small() {
    assert!(size_of::<Stream>() <= 32, "{}", size_of::<Stream>());
    assert!(size_of::<AckTracker>() <= 80, "{}", size_of::<AckTracker>());
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Data(usize, u32),
    Expect(usize, u64),
    EndWritten(usize),
    Reset(usize),
    StartPing,
    AckPing,
    ForgeAck,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Open),
        6 => (0..4_usize, 0..2_000_u32).prop_map(|(stream, bytes)| Step::Data(stream, bytes)),
        6 => (0..4_usize, 0..3_000_u64).prop_map(|(stream, ahead)| Step::Expect(stream, ahead)),
        1 => (0..4_usize).prop_map(Step::EndWritten),
        1 => (0..4_usize).prop_map(Step::Reset),
        4 => Just(Step::StartPing),
        4 => Just(Step::AckPing),
        1 => Just(Step::ForgeAck),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The expected state of one stream, computed directly from the rule.
struct Model {
    receiver: watch::Receiver<u64>,
    written: u64,
    /// `written` when the PING in flight was started.
    pinged: u64,
    acked: u64,
    expected: Vec<u64>,
    ended: bool,
    closed: bool,
}

proptest! {
    #[test]
    fn any_sequence_of_steps_follows_the_rule(steps in steps()) {
        let mut tracker = AckTracker::default();
        let usage = observed(&mut tracker);
        let mut streams: Vec<Model> = Vec::new();
        let mut in_flight = None;
        let mut pings = 0_u64;
        let mut now = Instant::now();
        let id = |index: usize| 2 * u32::try_from(index).expect("small") + 1;
        for step in steps {
            match step {
                Step::Open if streams.len() < 4 => {
                    tracker.stream_opened(id(streams.len()));
                    let receiver = tracker.watch(id(streams.len())).expect("open");
                    streams.push(Model {
                        receiver, written: 0, pinged: 0, acked: 0, expected: Vec::new(), ended: false, closed: false,
                    });
                }
                Step::Data(index, bytes) => if let Some(model) = streams.get_mut(index).filter(|model| !model.ended) {
                    tracker.data_written(id(index), bytes);
                    model.written += u64::from(bytes);
                },
                Step::Expect(index, ahead) => if let Some(model) = streams.get_mut(index) {
                    let total = model.written + ahead;
                    tracker.expect(id(index), total);
                    if total > model.expected.last().copied().unwrap_or(model.acked) {
                        model.expected.push(total);
                    }
                },
                Step::EndWritten(index) => if let Some(model) = streams.get_mut(index) {
                    tracker.end_written(id(index));
                    model.ended = true;
                },
                Step::Reset(index) => if let Some(model) = streams.get_mut(index) {
                    tracker.stream_reset(id(index));
                    model.closed = true;
                },
                Step::StartPing => {
                    now += PING_INTERVAL;
                    let due = tracker.ping_due(now) == PingDue::Now;
                    let needed = streams.iter().any(|model| {
                        !model.closed && model.expected.iter().any(|total| (model.acked + 1..=model.written).contains(total))
                    });
                    prop_assert_eq!(due, needed && in_flight.is_none());
                    if due {
                        pings += 1;
                        in_flight = Some(pings.to_be_bytes());
                        tracker.ping_started(now, pings.to_be_bytes());
                        tracker.ping_written();
                        for model in &mut streams {
                            model.pinged = model.written;
                        }
                    }
                }
                Step::AckPing => if let Some(payload) = in_flight.take() {
                    prop_assert!(tracker.ping_acked(payload));
                    for model in streams.iter_mut().filter(|model| !model.closed) {
                        model.acked = model.pinged;
                    }
                },
                Step::ForgeAck => prop_assert!(!tracker.ping_acked([0xff; 8])),
                Step::Open => {}
            }
            for model in &mut streams {
                let incomplete = model.expected.iter().any(|total| (model.acked + 1..=model.written).contains(total));
                model.closed |= model.ended && !incomplete;
                prop_assert_eq!(*model.receiver.borrow(), model.acked);
                prop_assert_eq!(is_closed(&model.receiver), model.closed);
            }
            let open = streams.iter().filter(|model| !model.closed).count();
            prop_assert_eq!(usage.lock().expect("no panic").streams, open);
        }
    }
}
