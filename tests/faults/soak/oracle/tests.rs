use super::*;

const EVENT: Delivery = Delivery { subscriber: 0, run: 7 };

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two servers with a stream each; the first stream received the event at 10 s.
fn oracle() -> Oracle {
    let mut oracle = Oracle::default();
    for server in 0..2 {
        let process = oracle.server_started(server);
        oracle.stream_opened(process);
    }
    oracle.received(EVENT, 0, s(10));
    oracle
}

/// Returns the cause of a duplicate that this stream receives at 30 s.
fn cause(mut oracle: Oracle, stream: usize) -> Option<Cause> {
    oracle.received(EVENT, stream, s(30));
    let Audit { explained, unexplained } = oracle.audit();
    assert_eq!(explained.is_empty(), unexplained.contains(&EVENT), "{}", oracle.history(EVENT));
    explained.into_keys().next()
}

/// A stream that ended right after the event explains a duplicate, and a later end does not.
#[test]
fn a_stream_that_ended_early_explains_a_duplicate() {
    for (ended, explained) in [(9, true), (13, true), (14, false), (25, false)] {
        let mut oracle = oracle();
        oracle.stream_ended(0, s(ended));
        assert_eq!(cause(oracle, 1), explained.then_some(Cause::StreamEndedUnconfirmed), "ended at {ended}");
    }
}

/// A paused subscriber confirms nothing; the pause of another subscriber does not count.
#[test]
fn only_its_own_pause_delays_a_confirmation() {
    for (paused, expected) in [(0, Some(Cause::StreamEndedUnconfirmed)), (1, None)] {
        let mut oracle = oracle();
        oracle.subscriber_paused(paused, s(11));
        oracle.subscriber_resumed(paused, s(20));
        oracle.stream_ended(0, s(20));
        assert_eq!(cause(oracle, 1), expected);
    }
}

#[test]
fn nothing_explains_a_duplicate_within_a_stream() {
    let mut oracle = oracle();
    oracle.stream_ended(0, s(31));
    assert_eq!(cause(oracle, 0), None);
}

/// A killed server explains a duplicate only if its mark was not seen before.
#[test]
fn a_killed_server_explains_a_duplicate_without_a_mark() {
    for (marked, explained) in [(None, true), (Some(26), true), (Some(24), false)] {
        let mut oracle = oracle();
        oracle.stream_ended(0, s(25));
        oracle.server_stopped(0, StopSignal::Kill, s(25), s(25));
        if let Some(marked) = marked {
            oracle.marked(EVENT, s(marked));
        }
        assert_eq!(cause(oracle, 1), explained.then_some(Cause::KilledBeforeMark), "marked at {marked:?}");
    }
}

/// A server that is shut down must write its marks, except during an outage of the API server.
#[test]
fn a_shutdown_explains_a_duplicate_only_during_an_outage() {
    for (outage, marked, expected) in [
        ((15, 18), None, None),
        ((18, 21), None, Some(Cause::ShutDownDuringOutage)),
        ((18, 21), Some(21), None),
        ((29, 30), None, None),
    ] {
        let mut oracle = oracle();
        oracle.stream_ended(0, s(20));
        oracle.server_stopped(0, StopSignal::Term, s(20), s(22));
        oracle.outage_started(s(outage.0));
        oracle.outage_ended(s(outage.1));
        if let Some(marked) = marked {
            oracle.marked(EVENT, s(marked));
        }
        assert_eq!(cause(oracle, 1), expected, "{outage:?} {marked:?}");
    }
}

/// Another replica explains a duplicate only while an outage hid the mark from it.
#[test]
fn another_replica_explains_a_duplicate_of_an_unseen_mark() {
    for (outage, marked, explained) in [(true, 28, true), (true, 24, false), (false, 28, false)] {
        let mut oracle = oracle();
        oracle.stream_ended(0, s(29));
        if outage {
            oracle.outage_started(s(5));
            oracle.outage_ended(s(27));
        }
        oracle.marked(EVENT, s(marked));
        assert_eq!(cause(oracle, 1), explained.then_some(Cause::OtherReplicaDuringOutage), "{outage} {marked}");
    }
}

#[test]
fn each_duplicate_needs_a_cause_of_its_own() {
    let mut oracle = oracle();
    oracle.stream_ended(0, s(11));
    oracle.received(EVENT, 1, s(12));
    oracle.received(EVENT, 1, s(13));
    let Audit { explained, unexplained } = oracle.audit();
    assert_eq!(explained, BTreeMap::from([(Cause::StreamEndedUnconfirmed, 1)]));
    assert_eq!(unexplained, [EVENT]);
    assert_eq!(oracle.deliveries().collect::<Vec<_>>(), [(EVENT, 3)]);
}
