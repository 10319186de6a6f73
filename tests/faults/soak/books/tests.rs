use super::*;

const EVENT: Delivery = (0, 7);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two servers, a stream of each; the first stream got the event at 10 s.
fn books() -> Books {
    let mut books = Books::default();
    for number in 0..2 {
        let life = books.server_started(number);
        books.stream_began(life);
    }
    books.received(EVENT, 0, s(10));
    books
}

/// What explains that the event came again at 30 s, on this stream.
fn cause(mut books: Books, stream: usize) -> Option<Cause> {
    books.received(EVENT, stream, s(30));
    let (explained, unexplained) = books.audit();
    assert_eq!(explained.is_empty(), unexplained.contains(&EVENT), "{}", books.story(EVENT));
    explained.into_keys().next()
}

#[test]
fn a_stream_that_ended_right_after_the_event_explains_a_repetition_and_a_later_end_does_not() {
    for (ended, explanation) in [(9, true), (13, true), (14, false), (25, false)] {
        let mut books = books();
        books.stream_ended(0, s(ended));
        assert_eq!(cause(books, 1), explanation.then_some(Cause::BrokenUnconfirmed), "ended at {ended}");
    }
}

#[test]
fn a_frozen_subscriber_confirms_nothing_and_another_ones_sleep_does_not_count() {
    for (sleeper, explanation) in [(0, Some(Cause::BrokenUnconfirmed)), (1, None)] {
        let mut books = books();
        books.freezes(sleeper, s(11));
        books.thaws(sleeper, s(20));
        books.stream_ended(0, s(20));
        assert_eq!(cause(books, 1), explanation);
    }
}

#[test]
fn nothing_explains_a_repetition_within_a_stream() {
    let mut books = books();
    books.stream_ended(0, s(31));
    assert_eq!(cause(books, 0), None);
}

#[test]
fn a_server_that_is_killed_explains_it_only_if_its_mark_was_not_there_yet() {
    for (marked, explanation) in [(None, true), (Some(26), true), (Some(24), false)] {
        let mut books = books();
        books.stream_ended(0, s(25));
        books.server_ended(0, How::Killed, s(25), s(25));
        if let Some(marked) = marked {
            books.marked(EVENT, s(marked));
        }
        assert_eq!(cause(books, 1), explanation.then_some(Cause::KilledBeforeMark), "marked at {marked:?}");
    }
}

#[test]
fn a_server_that_is_shut_down_has_to_write_its_marks_unless_the_api_server_is_away() {
    for (away, marked, explanation) in [
        ((15, 18), None, None),
        ((18, 21), None, Some(Cause::ShutDownWithoutApiServer)),
        ((18, 21), Some(21), None),
        ((29, 30), None, None),
    ] {
        let mut books = books();
        books.stream_ended(0, s(20));
        books.server_ended(0, How::Terminated, s(20), s(22));
        books.trouble_begins(s(away.0));
        books.trouble_ends(s(away.1));
        if let Some(marked) = marked {
            books.marked(EVENT, s(marked));
        }
        assert_eq!(cause(books, 1), explanation, "{away:?} {marked:?}");
    }
}

#[test]
fn another_replica_explains_it_only_while_it_could_not_know_of_the_mark() {
    for (trouble, marked, explanation) in [(true, 28, true), (true, 24, false), (false, 28, false)] {
        let mut books = books();
        books.stream_ended(0, s(29));
        if trouble {
            books.trouble_begins(s(5));
            books.trouble_ends(s(27));
        }
        books.marked(EVENT, s(marked));
        assert_eq!(cause(books, 1), explanation.then_some(Cause::OtherReplicaWithoutApiServer), "{trouble} {marked}");
    }
}

#[test]
fn each_repetition_needs_an_explanation_of_its_own() {
    let mut books = books();
    books.stream_ended(0, s(11));
    books.received(EVENT, 1, s(12));
    books.received(EVENT, 1, s(13));
    let (explained, unexplained) = books.audit();
    assert_eq!(explained, BTreeMap::from([(Cause::BrokenUnconfirmed, 1)]));
    assert_eq!(unexplained, [EVENT]);
    assert_eq!(books.counts().collect::<Vec<_>>(), [(EVENT, 3)]);
}
