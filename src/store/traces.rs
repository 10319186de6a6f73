//! The namespaces whose runs carry Argo's trace ids.
//!
//! A tenant can write any trace id on its own Workflows, also that of another tenant's run. So an id that runs of several
//! namespaces carry is not used for any of them. Neither is an id that is a run's UID, which is the trace id of runs without
//! Argo's.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::model::{TraceId, Workflow};

/// An index of the runs that carry an id, and of the UIDs of all runs.
#[derive(Debug, Default)]
pub(super) struct TraceClaims {
    first: HashMap<TraceId, Claim>,
    /// The further namespaces.
    others: HashMap<TraceId, Vec<Claim>>,
    /// The beginnings of all UIDs, which are random: a few bytes a run. Of two runs with the same one, which is unlikely,
    /// the first that is removed removes it.
    uids: HashSet<Beginning>,
}

/// The first bytes of an id.
type Beginning = [u8; 4];

fn beginning(id: &[u8; 16]) -> Beginning {
    [id[0], id[1], id[2], id[3]]
}

/// The runs of one namespace that carry an id.
#[derive(Debug)]
struct Claim {
    namespace: Arc<str>,
    runs: u32,
}

impl Claim {
    fn is_of(&self, namespace: &str) -> bool {
        *self.namespace == *namespace
    }
}

impl TraceClaims {
    /// Adds a run.
    pub(super) fn add(&mut self, run: &Workflow) {
        self.uids.insert(beginning(run.uid.as_bytes()));
        if let Some(id) = run.trace_id.as_deref() {
            self.claim(*id, &run.namespace);
        }
    }

    /// Removes a run that was added.
    pub(super) fn remove(&mut self, run: &Workflow) {
        self.uids.remove(&beginning(run.uid.as_bytes()));
        if let Some(id) = run.trace_id.as_deref() {
            self.release(*id, &run.namespace);
        }
    }

    fn claim(&mut self, id: TraceId, namespace: &Arc<str>) {
        let new = || Claim { namespace: namespace.clone(), runs: 0 };
        let first = self.first.entry(id).or_insert_with(new);
        if first.is_of(namespace) {
            first.runs += 1;
            return;
        }
        let others = self.others.entry(id).or_default();
        match others.iter_mut().find(|claim| claim.is_of(namespace)) {
            Some(claim) => claim.runs += 1,
            None => others.push(Claim { runs: 1, ..new() }),
        }
    }

    fn release(&mut self, id: TraceId, namespace: &str) {
        let first = self.first.get_mut(&id).expect("the id of a run was added");
        let others = self.others.get_mut(&id);
        if first.is_of(namespace) {
            first.runs -= 1;
            if first.runs == 0 {
                match others.and_then(Vec::pop) {
                    Some(other) => *first = other,
                    None => drop(self.first.remove(&id)),
                }
            }
        } else {
            let others = others.expect("the id of a run was added");
            others.iter_mut().filter(|claim| claim.is_of(namespace)).for_each(|claim| claim.runs -= 1);
            others.retain(|claim| claim.runs > 0);
        }
        if self.others.get(&id).is_some_and(Vec::is_empty) {
            self.others.remove(&id);
        }
    }

    /// Returns whether no run of another namespace carries the id, and no run has it as its UID.
    pub(super) fn is_exclusive(&self, id: TraceId, namespace: &str) -> bool {
        !self.others.contains_key(&id)
            && self.first.get(&id).is_none_or(|claim| claim.is_of(namespace))
            && !self.uids.contains(&beginning(id.as_bytes()))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.others.is_empty() && self.uids.is_empty()
    }
}
