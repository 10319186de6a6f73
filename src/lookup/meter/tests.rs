use std::convert::Infallible;

use futures::{FutureExt, StreamExt, channel::mpsc, stream};
use http_body_util::{BodyExt, StreamBody};
use prometheus_client::registry::Registry;

use super::*;

/// A body whose frames the test sends, and how many of them were read.
struct TestBody {
    frames: mpsc::Sender<Bytes>,
    account: Account,
    hits: LimitHits,
    budgets: AnswerBudgets,
}

impl TestBody {
    fn new() -> (Self, MeteredBody) {
        let hits = LimitHits::new(&mut Registry::default());
        let budgets = AnswerBudgets::new(Memory::default(), hits.clone());
        Self::with(budgets, hits)
    }

    fn with(budgets: AnswerBudgets, hits: LimitHits) -> (Self, MeteredBody) {
        // Room for two frames: one in the channel, and one of its sender.
        let (frames, received) = mpsc::channel(1);
        let frame = |data| Ok::<_, Infallible>(Frame::data(data));
        let body = Body::new(StreamBody::new(received.map(frame)));
        let account = Account::new("team-a".into());
        let metered = MeteredBody::new(body, account.clone(), budgets.clone());
        (Self { frames, account, hits, budgets }, metered)
    }

    fn send(&mut self, data: &[u8]) {
        self.frames.try_send(Bytes::copy_from_slice(data)).expect("the former frame was read");
    }

    /// Returns whether both frames are still unread.
    fn is_full(&mut self) -> bool {
        self.frames.try_send(Bytes::new()).is_err_and(|error| error.is_full())
    }
}

/// The frame of a message with this length, as far as `data` goes.
fn message(length: usize, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap();
    [&[0], &length.to_be_bytes()[..], data].concat()
}

fn next(body: &mut MeteredBody) -> Option<Result<Bytes, Status>> {
    let frame = body.frame().now_or_never()?.expect("the body has not ended");
    Some(frame.map(|frame| frame.into_data().expect("data")))
}

#[test]
fn an_answer_is_passed_on_as_it_came() {
    let (mut test, mut body) = TestBody::new();
    let message = message(4, b"abcd");
    for byte in &message {
        test.send(&[*byte]);
        assert_eq!(next(&mut body).unwrap().unwrap(), [*byte][..]);
    }
    assert_eq!(test.budgets.memory.small.used(), 4);
    assert_eq!(test.account.refusal(), None);
    drop(body);
    assert_eq!(test.budgets.memory.small.used(), 4, "until it has been read");
    let TestBody { budgets, account, .. } = test;
    drop(account);
    assert_eq!(budgets.memory.small.used(), 0);
}

#[test]
fn an_answer_that_is_too_large_is_refused_by_its_header() {
    let (mut test, mut body) = TestBody::new();
    test.send(&message(MAX_ANSWER + 1, b""));
    assert!(next(&mut body).unwrap().is_err());
    assert_eq!(test.account.refusal(), Some(Refusal::TooLarge { bytes: MAX_ANSWER + 1 }));
    assert_eq!((test.budgets.memory.small.used(), test.budgets.memory.large.used()), (0, 0));

    let (mut test, mut body) = TestBody::new();
    test.send(&message(MAX_ANSWER, b""));
    assert!(next(&mut body).unwrap().is_ok());
    assert_eq!(test.budgets.memory.large.used(), MAX_ANSWER);
}

#[test]
fn an_answer_waits_unread_until_it_has_its_bytes() {
    let (mut test, mut body) = TestBody::new();
    let held = test.budgets.memory.large.try_acquire(&"team-a".into(), MAX_ANSWER - 100).unwrap();
    let frame = message(SMALL_ANSWER + 1, b"abc");
    test.send(&frame);
    assert!(next(&mut body).is_none());
    test.send(b"def");
    test.send(b"ghi");
    assert!(next(&mut body).is_none() && next(&mut body).is_none());
    assert!(test.is_full(), "nothing is read while the first frame waits");
    assert_eq!(test.hits.count(Limit::MetadataBytes), 1);
    drop(held);
    assert_eq!(next(&mut body).unwrap().unwrap(), frame);
    assert_eq!(next(&mut body).unwrap().unwrap(), b"def"[..]);
    assert_eq!(next(&mut body).unwrap().unwrap(), b"ghi"[..]);
    assert_eq!(test.hits.count(Limit::MetadataBytes), 1);
}

#[test]
fn small_answers_do_not_wait_for_large_ones() {
    let (test, _) = TestBody::new();
    let namespaces = ["a", "b"].map(Arc::<str>::from);
    let _held = namespaces.each_ref().map(|name| test.budgets.memory.large.try_acquire(name, MAX_ANSWER).unwrap());
    let (mut test, mut body) = TestBody::with(test.budgets, test.hits);
    let frame = message(SMALL_ANSWER, b"abc");
    test.send(&frame);
    assert_eq!(next(&mut body).unwrap().unwrap(), frame);
}

#[test]
fn more_answers_than_may_wait_are_refused() {
    let (test, _) = TestBody::new();
    let _held = test.budgets.memory.large.try_acquire(&"team-a".into(), MAX_ANSWER).unwrap();
    let mut waiting = Vec::new();
    for number in 0.. {
        let (mut test, mut body) = TestBody::with(test.budgets.clone(), test.hits.clone());
        test.send(&message(MAX_ANSWER, b""));
        match next(&mut body) {
            None => waiting.push((test, body)),
            Some(answer) => {
                assert!(answer.is_err());
                assert_eq!(test.account.refusal(), Some(Refusal::Exhausted));
                assert_eq!(number, LARGE.waiting_per_namespace);
                break;
            }
        }
    }
    assert_eq!(test.hits.count(Limit::MetadataBytes), 5);
}

#[test]
fn a_second_message_is_an_error() {
    for (first, second) in [(&b"abc"[..], &b"de"[..]), (b"abcde", b""), (b"abcd", b"e")] {
        let (mut test, mut body) = TestBody::new();
        test.send(&message(4, first));
        test.send(second);
        let answers: Vec<_> = std::iter::from_fn(|| next(&mut body)).take(2).collect();
        assert!(answers.iter().any(Result::is_err), "{answers:?}");
        assert_eq!(test.account.refusal(), None);
    }
}

#[tokio::test]
async fn an_empty_answer_and_an_end_within_the_header_are_passed_on() {
    for data in [&b""[..], &[0, 0, 0], &message(0, b"")] {
        let budgets = AnswerBudgets::new(Memory::default(), LimitHits::default());
        let frames = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(data)))]);
        let body = MeteredBody::new(Body::new(StreamBody::new(frames)), Account::new("a".into()), budgets);
        assert_eq!(body.collect().await.unwrap().to_bytes(), data);
    }
}
