//! The calls of one lookup. Each listing is read to its last page, and each row is converted to plain data.

use std::sync::Arc;

use prost::Message;
use tonic::Code;

use super::{
    ahead::MAX_EXECUTIONS,
    allowance::Allowance,
    convert,
    error::{CallCode, CallError},
    method::Method,
    pages::{PageSize, PageSizes, Pages},
    proto,
    rules::{Context, ContextArtifact, ContextNames, Event, Execution, RunContext, RunFlavor},
    wire::{Field, fields},
};
use crate::lookup::{budget::Permit, client::Client};

/// Rows of a page, or artifacts of a request for events.
const PAGE_SIZES: PageSizes = [100, 10, 1];

/// Makes the calls of one lookup.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    client: &'a Client,
    namespace: &'a Arc<str>,
    allowance: Allowance<'a>,
}

impl<'a> Reader<'a> {
    /// A reader for a run of this namespace.
    pub(super) fn new(client: &'a Client, namespace: &'a Arc<str>) -> Self {
        Self { client, namespace, allowance: Allowance::new(&client.memory, &client.hits, namespace) }
    }

    /// Returns the run's context of this flavor and name, if it exists.
    pub(super) async fn run_context(&self, flavor: RunFlavor, name: &str) -> Result<Option<RunContext>, CallError> {
        let request = proto::GetContextByTypeAndNameRequest {
            type_name: Some(flavor.context_type().to_owned()),
            context_name: Some(name.to_owned()),
        };
        let answer = self.call(Method::GetContextByTypeAndName, request, |message| {
            let mut found = None;
            rows(message, |row| {
                let Context { id, name: found_name, namespace, .. } = convert::context(row)?;
                if found_name != name {
                    return Err(CallError::malformed("the response contains a context of another name"));
                }
                found = Some(RunContext { id, flavor, name: name.to_owned(), namespace });
                Ok(())
            })?;
            Ok(found)
        });
        answer.await.or_else(not_found_as_none)
    }

    /// Passes every artifact that is attributed to the context. `add` returns the bytes that it keeps.
    pub(super) async fn artifacts(
        &self,
        context: i64,
        mut add: impl FnMut(ContextArtifact) -> usize,
    ) -> Result<(), CallError> {
        let request = |options| proto::GetArtifactsByContextRequest { context_id: Some(context), options };
        self.list(Method::GetArtifactsByContext, request, |row| Ok(add(convert::artifact(row)?))).await
    }

    /// Passes every execution that is associated with the context. `add` returns the bytes that it keeps.
    pub(super) async fn executions(
        &self,
        context: i64,
        mut add: impl FnMut(&Execution<'_>) -> usize,
    ) -> Result<(), CallError> {
        let request = |options| proto::GetExecutionsByContextRequest { context_id: Some(context), options };
        self.list(Method::GetExecutionsByContext, request, |row| Ok(add(&convert::execution(row)?))).await
    }

    /// Returns the ids of the executions of a context, or `None` if there is more than one page of them.
    pub(super) async fn execution_ids(&self, context: i64) -> Result<Option<Vec<i64>>, CallError> {
        let rows_of_page = i32::try_from(MAX_EXECUTIONS).unwrap_or(i32::MAX);
        let options = proto::ListOperationOptions { max_result_size: Some(rows_of_page), next_page_token: None };
        let request = proto::GetExecutionsByContextRequest { context_id: Some(context), options: Some(options) };
        let answer = self.call(Method::GetExecutionsByContext, request, |message| {
            let (mut ids, mut is_last) = (Vec::new(), true);
            fields(message, |number, field| {
                match number {
                    1 => ids.push(convert::execution(field.bytes()?)?.id),
                    2 => is_last = field.text()?.is_empty(),
                    _ => {}
                }
                Ok(())
            })?;
            Ok((is_last && ids.len() <= MAX_EXECUTIONS).then_some(ids))
        });
        match answer.await {
            Err(CallError { code: CallCode::TooLarge, .. }) => Ok(None),
            answer => answer,
        }
    }

    /// Passes every event of these executions, in one call. Its answer does not count as read by the lookup, which
    /// could exceed its limit only because of a guess.
    pub(super) async fn events_of_executions(
        &self,
        executions: &[i64],
        mut add: impl FnMut(&Event<'_>) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        let request = proto::GetEventsByExecutionIDsRequest { execution_ids: executions.to_vec() };
        let method = Method::GetEventsByExecutionIDs.name();
        let read = |message: &[u8]| rows(message, |row| add(&convert::event(row)?));
        self.client.call(self.namespace, method, tonic::Request::new(request), read).await
    }

    /// Passes every event of these artifacts, in all runs. `add` returns the bytes that it keeps.
    pub(super) async fn events(
        &self,
        artifacts: &[i64],
        mut add: impl FnMut(&Event<'_>) -> usize,
    ) -> Result<(), CallError> {
        let mut rest = artifacts;
        // The only listing without pages. One request has several artifacts.
        let mut batch = PageSize::new(PAGE_SIZES);
        while !rest.is_empty() {
            let (artifact_ids, later) = rest.split_at(batch.rows().min(rest.len()));
            let request = proto::GetEventsByArtifactIDsRequest { artifact_ids: artifact_ids.to_vec() };
            let answer = self.call(Method::GetEventsByArtifactIDs, request, |message| {
                rows(message, |row| self.keep(add(&convert::event(row)?)))
            });
            match answer.await {
                Err(CallError { code: CallCode::TooLarge, .. })
                    if self.allowance.is_within_limits() && batch.shrink() => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    batch.fits();
                    rest = later;
                }
            }
        }
        Ok(())
    }

    /// Returns the names in the parents of a context.
    pub(super) async fn parents(&self, context: i64) -> Result<ContextNames, CallError> {
        let request = proto::GetParentContextsByContextRequest { context_id: Some(context) };
        self.call(Method::GetParentContextsByContext, request, context_names).await
    }

    /// Returns the names in the contexts of an execution.
    pub(super) async fn contexts_of(&self, execution: i64) -> Result<ContextNames, CallError> {
        let request = proto::GetContextsByExecutionRequest { execution_id: Some(execution) };
        self.call(Method::GetContextsByExecution, request, context_names).await
    }

    /// Returns the id of an artifact type, if the store has the type.
    pub(super) async fn artifact_type(&self, name: &str) -> Result<Option<i64>, CallError> {
        let request = proto::GetArtifactTypeRequest { type_name: Some(name.to_owned()) };
        let answer = self.call(Method::GetArtifactType, request, |message| {
            let mut id = None;
            rows(message, |row| {
                id = Some(convert::artifact_type(row)?);
                Ok(())
            })?;
            Ok(id)
        });
        answer.await.or_else(not_found_as_none)
    }

    /// Reads a listing. `add` converts a row and returns the bytes that it keeps.
    async fn list<R: Message + 'static>(
        &self,
        method: Method,
        request: impl Fn(Option<proto::ListOperationOptions>) -> R,
        mut add: impl FnMut(&[u8]) -> Result<usize, CallError>,
    ) -> Result<(), CallError> {
        let mut pages = Pages::of(method.name(), self.namespace, &self.client.page_sizes, PAGE_SIZES);
        while let Some(page) = pages.next() {
            let options = proto::ListOperationOptions { max_result_size: Some(page.rows), next_page_token: page.token };
            let answer = self.call(method, request(Some(options)), |message| {
                let mut token = None;
                fields(message, |number, field| match (number, field) {
                    (1, row) => self.keep(add(row.bytes()?)?),
                    (2, text) => {
                        token = Some(text.text()?.to_owned());
                        Ok(())
                    }
                    _ => Ok(()),
                })?;
                Ok(token)
            });
            match answer.await {
                Err(CallError { code: CallCode::TooLarge, .. })
                    if self.allowance.is_within_limits() && pages.shrink() => {}
                answer => pages.turn(answer?)?,
            }
        }
        Ok(())
    }

    async fn call<R, T>(
        &self,
        method: Method,
        request: R,
        read: impl FnOnce(&[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError>
    where
        R: Message + 'static,
    {
        let read = |message: &[u8]| {
            self.allowance.read(message.len())?;
            read(message)
        };
        self.client.call(self.namespace, method.name(), tonic::Request::new(request), read).await
    }

    /// Notes that the lookup keeps this many bytes more.
    pub(super) fn keep(&self, bytes: usize) -> Result<(), CallError> {
        self.allowance.keep(bytes)
    }

    /// Reserves this many bytes that do not count as kept by the lookup, if its namespace has room for them.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Permit> {
        self.allowance.reserve(bytes)
    }

    /// Resets the limits of the lookup, which begins anew and has dropped what it kept.
    pub(super) fn reset(&self) {
        self.allowance.reset();
    }
}

/// Passes the rows of a response: the messages in its first field.
pub(super) fn rows<'a>(
    message: &'a [u8],
    mut each: impl FnMut(&'a [u8]) -> Result<(), CallError>,
) -> Result<(), CallError> {
    fields(message, |number, field: Field<'a>| if number == 1 { each(field.bytes()?) } else { Ok(()) })
}

pub(super) fn context_names(message: &[u8]) -> Result<ContextNames, CallError> {
    let mut names = ContextNames::default();
    rows(message, |row| {
        names.add(&convert::context(row)?);
        Ok(())
    })?;
    Ok(names)
}

/// Reads NOT_FOUND as "absent" in requests by name: servers return it while the name's type has not been used yet.
fn not_found_as_none<T>(error: CallError) -> Result<Option<T>, CallError> {
    if error.code == CallCode::Grpc(Code::NotFound) { Ok(None) } else { Err(error) }
}
