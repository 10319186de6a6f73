//! The watch, the store, and the records that streams read from it.

use super::*;

impl TestEnv {
    pub(in super::super) fn watch(&mut self, events: usize) {
        for _ in 0..events {
            match self.unseen.pop_front() {
                Some(Unseen::Applied(workflow)) => self.store.apply(workflow),
                Some(Unseen::Deleted(workflow)) => {
                    self.store.delete(&workflow.namespace, &workflow.name, workflow.uid);
                }
                None => return,
            }
            self.read_journal();
        }
    }

    /// The watch breaks and relists: changes in between are never seen.
    pub(in super::super) fn relist(&mut self) {
        self.unseen.clear();
        let list = self.store.begin_list(Scope::All);
        self.api.values().for_each(|object| self.store.apply(object.workflow.clone()));
        self.store.finish_list(list);
        self.read_journal();
    }

    pub(super) fn read_journal(&mut self) {
        let changes = self.store.changes().now_or_never().unwrap_or_default();
        self.handle_changes(&changes);
        self.perform_actions();
    }

    /// Offers the next records to a stream that reads them.
    pub(in super::super) fn read(&mut self) {
        let Some(Reader { stream, namespace, after }) = self.readers.pop_front() else { return };
        let Page { changes, records, is_last } = self.store.read(&namespace, after.as_deref(), 1);
        self.handle_changes(&changes);
        records.iter().for_each(|record| self.oracle.applied(record, self.now.instant));
        let offered = self.ledger.offer_records(stream, &records, is_last, self.now);
        if let Some(offered) = offered {
            let last = offered.checked_sub(1).map(|last| records[last].name.clone());
            self.readers.push_back(Reader { stream, namespace, after: last.or(after) });
        }
        self.perform_actions();
    }

    pub(super) fn read_all(&mut self) {
        while !self.readers.is_empty() {
            self.read();
        }
    }

    pub(super) fn handle_changes(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Applied { workflow, .. } => self.oracle.applied(workflow, self.now.instant),
                Change::Deleted(workflow) => {
                    self.oracle.gone(workflow, self.now.instant);
                    if has_model(workflow.uid) {
                        self.oracle.deleted(workflow, self.now.instant);
                    }
                }
            }
            self.ledger.handle_change(change, self.now);
        }
    }
}
