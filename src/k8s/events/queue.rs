//! The queue of notices. Namespaces take turns, and none takes the room of another.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use uuid::Uuid;

use crate::delivery::Notice;

/// Queued notices of one namespace. Further ones displace the oldest.
pub(super) const MAX_OF_NAMESPACE: usize = 64;
/// Queued notices of all namespaces: about 1 MiB.
pub(super) const MAX_QUEUED: usize = 4096;
/// Notices that are remembered, and not repeated.
pub(super) const MAX_REMEMBERED: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The notices of each namespace that has some, the oldest first.
    notices: HashMap<Arc<str>, VecDeque<Notice>>,
    /// The keys of `notices`, except namespaces that have their turn.
    waiting: VecDeque<Arc<str>>,
    /// The namespaces that have their turn.
    in_turn: HashSet<Arc<str>>,
    queued: usize,
    remembered: Remembered,
}

/// The result of [`Queue::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Queued,
    /// It is queued, and the oldest of its namespace was dropped.
    Displaced,
    /// It was dropped.
    Dropped,
    /// It was pushed before.
    Duplicate,
}

impl Queue {
    /// Adds a notice, unless it was added before.
    pub(super) fn push(&mut self, notice: Notice, id: Uuid) -> Pushed {
        if !self.remembered.insert(id) {
            return Pushed::Duplicate;
        }
        let namespace = notice.namespace.clone();
        if self.queued >= MAX_QUEUED && !self.notices.contains_key(&namespace) {
            return Pushed::Dropped;
        }
        let is_waiting = self.in_turn.contains(&namespace) || self.notices.contains_key(&namespace);
        let notices = self.notices.entry(namespace.clone()).or_default();
        let displaced = self.queued >= MAX_QUEUED || notices.len() >= MAX_OF_NAMESPACE;
        if displaced {
            notices.pop_front();
        } else {
            self.queued += 1;
        }
        notices.push_back(notice);
        if !is_waiting {
            self.waiting.push_back(namespace);
        }
        if displaced { Pushed::Displaced } else { Pushed::Queued }
    }

    /// Takes the oldest notice of the namespace whose turn it is. The next one of that namespace follows after
    /// [`Queue::end_turn`].
    pub(super) fn next(&mut self) -> Option<Notice> {
        let namespace = self.waiting.pop_front()?;
        let notices = self.notices.get_mut(&namespace)?;
        let notice = notices.pop_front()?;
        if notices.is_empty() {
            self.notices.remove(&namespace);
        }
        self.queued -= 1;
        self.in_turn.insert(namespace);
        Some(notice)
    }

    /// Ends the turn of a namespace.
    pub(super) fn end_turn(&mut self, namespace: &Arc<str>) {
        self.in_turn.remove(namespace);
        if self.notices.contains_key(namespace) {
            self.waiting.push_back(namespace.clone());
        }
    }
}

/// Ids in two generations: where the younger one is full, the older one is forgotten.
#[derive(Debug, Default)]
struct Remembered {
    young: HashSet<Uuid>,
    old: HashSet<Uuid>,
}

impl Remembered {
    /// Adds an id. Returns whether it is new.
    fn insert(&mut self, id: Uuid) -> bool {
        if self.young.contains(&id) || self.old.contains(&id) {
            return false;
        }
        if self.young.len() >= MAX_REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Uid;

    fn notice(namespace: &str, number: usize) -> Notice {
        Notice {
            namespace: namespace.into(),
            workflow: format!("run-{number}").into(),
            uid: Uid::from(number as u128),
            finished: 0,
            subscription: None,
            reason: "no_model",
            is_warning: false,
            text: String::new(),
        }
    }

    fn push(queue: &mut Queue, namespace: &str, number: usize) -> Pushed {
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{namespace}/{number}").as_bytes());
        queue.push(notice(namespace, number), id)
    }

    /// Takes the next notice, and ends its turn at once.
    fn next(queue: &mut Queue) -> Option<String> {
        let notice = queue.next()?;
        queue.end_turn(&notice.namespace);
        Some(format!("{}/{}", notice.namespace, notice.workflow))
    }

    #[test]
    fn namespaces_take_turns() {
        let mut queue = Queue::default();
        (0..3).for_each(|number| assert_eq!(push(&mut queue, "a", number), Pushed::Queued));
        assert_eq!(push(&mut queue, "b", 0), Pushed::Queued);
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(order, ["a/run-0", "b/run-0", "a/run-1", "a/run-2"]);
        assert!(queue.notices.is_empty() && queue.waiting.is_empty() && queue.in_turn.is_empty());
        assert_eq!(queue.queued, 0);
    }

    /// Also one that gets its next notice meanwhile.
    #[test]
    fn a_namespace_has_one_turn_at_a_time() {
        let mut queue = Queue::default();
        push(&mut queue, "a", 0);
        let first = queue.next().unwrap();
        push(&mut queue, "a", 1);
        assert_eq!(queue.next(), None);
        queue.end_turn(&first.namespace);
        assert_eq!(queue.next().unwrap().workflow, "run-1".into());
    }

    #[test]
    fn a_full_namespace_drops_its_own_oldest_notice() {
        let mut queue = Queue::default();
        (0..MAX_OF_NAMESPACE).for_each(|number| assert_eq!(push(&mut queue, "a", number), Pushed::Queued));
        assert_eq!(push(&mut queue, "a", MAX_OF_NAMESPACE), Pushed::Displaced);
        assert_eq!(push(&mut queue, "b", 0), Pushed::Queued);
        assert_eq!(next(&mut queue).unwrap(), "a/run-1");
        assert_eq!(next(&mut queue).unwrap(), "b/run-0");
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Queue::default();
        for namespace in 0..MAX_QUEUED {
            assert_eq!(push(&mut queue, &namespace.to_string(), 0), Pushed::Queued);
        }
        assert_eq!(push(&mut queue, "new", 0), Pushed::Dropped);
        assert_eq!(push(&mut queue, "7", 1), Pushed::Displaced);
        assert_eq!(queue.queued, MAX_QUEUED);
        let taken = std::iter::from_fn(|| next(&mut queue)).count();
        assert_eq!((taken, queue.queued), (MAX_QUEUED, 0));
    }

    #[test]
    fn a_notice_is_not_repeated_while_it_is_remembered() {
        let mut queue = Queue::default();
        assert_eq!(push(&mut queue, "a", 0), Pushed::Queued);
        next(&mut queue);
        for number in 1..MAX_REMEMBERED / 2 {
            push(&mut queue, "a", number);
            assert_eq!(push(&mut queue, "a", 0), Pushed::Duplicate);
        }
        for number in 0..MAX_REMEMBERED {
            push(&mut queue, "b", number);
        }
        assert_eq!(push(&mut queue, "a", 0), Pushed::Displaced, "it is forgotten");
        assert!(queue.remembered.young.len() + queue.remembered.old.len() <= MAX_REMEMBERED);
    }
}
