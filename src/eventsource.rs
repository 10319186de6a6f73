//! The subscriber's side: `generic.Eventing/StartEventSource`, as Argo Events' generic EventSource dials it.

pub mod link;
