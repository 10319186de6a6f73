//! Chance plays the world: an API server with a watch that lags and lists anew, a store of models that fails, streams
//! that come and go, several replicas, crashes, a hand that removes marks. `world` holds what is true, `witness` what
//! an observer who knows only the guarantees may conclude; here is what may happen, and what must hold at the end.

mod witness;
mod world;

use std::time::Duration;

use proptest::prelude::*;

use self::world::{Fate, Reply, World};

/// One thing that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Op {
    /// A run succeeds; one that was deleted is created anew under its name.
    Succeed(u8),
    Restart(u8),
    Delete(u8),
    /// Another replica has delivered a run.
    Mark(u8, u8),
    /// `redeliver`.
    Unmark(u8, u8),
    Label(u8),
    /// So many events of the watch arrive.
    Watch(u8),
    Relist,
    Attach(u8, u8),
    End(u8),
    Acknowledge(u8, u8),
    Answer(u8, Reply),
    /// What the watch has comes through, what is asked is answered, what was sent is read.
    Smooth,
    Patch(u8, Fate),
    Wait(Duration),
    Jump(i64),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let small = || 0..8_u8;
    let reply = prop_oneof![
        6 => Just(Reply::Truth),
        2 => Just(Reply::Unavailable),
        1 => Just(Reply::NoContext),
        1 => Just(Reply::ForeignContext),
    ];
    let fate = prop_oneof![
        6 => Just(Fate::Done),
        1 => Just(Fate::DoneButLost),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Refused),
        1 => Just(Fate::Conflict),
    ];
    let wait = prop_oneof![
        3 => Just(10),
        6 => Just(1_000),
        2 => Just(20_000),
        1 => Just(700_000),
        1 => Just(3_700_000),
    ];
    prop_oneof![
        8 => small().prop_map(Op::Succeed),
        2 => small().prop_map(Op::Restart),
        2 => small().prop_map(Op::Delete),
        1 => (small(), small()).prop_map(|(run, subscription)| Op::Mark(run, subscription)),
        2 => (small(), small()).prop_map(|(run, subscription)| Op::Unmark(run, subscription)),
        1 => small().prop_map(Op::Label),
        10 => (1..4_u8).prop_map(Op::Watch),
        1 => Just(Op::Relist),
        6 => (small(), small()).prop_map(|(namespace, subscription)| Op::Attach(namespace, subscription)),
        4 => small().prop_map(Op::End),
        8 => (small(), small()).prop_map(|(stream, events)| Op::Acknowledge(stream, events)),
        12 => (small(), reply).prop_map(|(question, reply)| Op::Answer(question, reply)),
        5 => Just(Op::Smooth),
        8 => (small(), fate).prop_map(|(patch, fate)| Op::Patch(patch, fate)),
        8 => wait.prop_map(|ms| Op::Wait(Duration::from_millis(ms))),
        1 => (-1_000_000..1_000_000_i64).prop_map(Op::Jump),
        1 => Just(Op::Crash),
    ]
}

fn play(world: &mut World, op: &Op) {
    match *op {
        Op::Succeed(run) => world.succeed(run),
        Op::Restart(run) => world.restart(run),
        Op::Delete(run) => world.delete(run),
        Op::Mark(run, subscription) => world.mark(run, subscription),
        Op::Unmark(run, subscription) => world.unmark(run, subscription),
        Op::Label(run) => world.label(run),
        Op::Watch(events) => world.watch(events.into()),
        Op::Relist => world.relist(),
        Op::Attach(namespace, subscription) => world.attach(namespace, subscription),
        Op::End(stream) => world.end(stream),
        Op::Acknowledge(stream, events) => world.acknowledge(stream, events),
        Op::Answer(question, reply) => world.answer(question, reply),
        Op::Smooth => world.go_smoothly(),
        Op::Patch(patch, fate) => world.patch(patch, fate),
        Op::Wait(duration) => world.wait(duration),
        Op::Jump(seconds) => world.jump(seconds),
        Op::Crash => world.crash(),
    }
    world.check_bounds();
}

/// The storm, then good weather, then the end of everything.
fn check(ops: &[Op], skip_labelled: bool) {
    let mut world = World::new(skip_labelled);
    for op in ops {
        play(&mut world, op);
    }
    world.calm(Duration::from_secs(4 * 3600));
    world.check_everything_delivered();
    world.close();
    world.check_nothing_left();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_everything_is_delivered_once_and_nothing_is_left(
        ops in prop::collection::vec(op(), 1..150),
        skip_labelled: bool,
    ) {
        check(&ops, skip_labelled);
    }
}
