//! A call whose answer is read piece by piece. gRPC libraries buffer a message until it is complete; an answer of which a
//! few bytes matter does not have to occupy that memory.

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::poll_fn;
use http::{HeaderValue, Method, Request, Response, Version, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::Service as _;

use super::{
    error::{CallError, NOT_GRPC},
    require_grpc::RequireGrpc,
};

/// Length of a gRPC message's header: a flag and the length of the message.
const HEADER: usize = 5;

/// Makes the call, and passes the pieces of the answer's only message to `read`.
pub(super) async fn call<R: Message>(
    mut channel: RequireGrpc<Channel>,
    path: PathAndQuery,
    request: tonic::Request<R>,
    max: usize,
    mut read: impl FnMut(&[u8]) -> Result<(), CallError>,
) -> Result<(), CallError> {
    let name = path.as_str().rsplit('/').next().unwrap_or_default().to_owned();
    let failed = |status: &Status| CallError::status(&name, status);
    let (metadata, _, message) = request.into_parts();
    let mut request = Request::builder().method(Method::POST).uri(path).version(Version::HTTP_2);
    if let Some(headers) = request.headers_mut() {
        headers.extend(metadata.into_headers());
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    }
    let request = request.body(Body::new(Full::new(framed(&message))));
    let request = request.map_err(|error| CallError::malformed(error.to_string()))?;
    let transport = |error: tonic::transport::Error| failed(&Status::from_error(error.into()));
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(transport)?;
    let response: Response<Body> = channel.call(request).await.map_err(transport)?;

    // An error without a message has its status among the headers.
    if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
        return Err(failed(&status));
    }
    let status = response.status();
    if status != http::StatusCode::OK {
        let code = if status.is_server_error() { Code::Unavailable } else { Code::Unknown };
        return Err(failed(&Status::new(code, format!("HTTP status {status}"))));
    }
    let mut body = response.into_body();
    let mut begin = BytesMut::with_capacity(HEADER);
    let mut rest = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| failed(&status))?;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                let status = Status::from_header_map(&trailers).filter(|status| status.code() != Code::Ok);
                match (status, rest) {
                    (Some(status), _) => return Err(failed(&status)),
                    (None, Some(0)) => return Ok(()),
                    (None, _) => break,
                }
            }
        };
        let mut data = &data[..];
        if rest.is_none() {
            let taken = data.len().min(HEADER - begin.len());
            begin.extend_from_slice(&data[..taken]);
            data = &data[taken..];
            if let Ok([flag, length @ ..]) = <[u8; HEADER]>::try_from(&begin[..]) {
                let length = u32::from_be_bytes(length) as usize;
                if flag != 0 {
                    return Err(CallError::malformed(format!("{name}: the answer is compressed")));
                }
                if length > max {
                    return Err(CallError::too_large(format!(
                        "{name}: the answer has {length} bytes, more than {max}"
                    )));
                }
                rest = Some(length);
            }
        }
        if !data.is_empty() {
            let second = || CallError::malformed(format!("{name}: {NOT_GRPC} of a single message"));
            rest = Some(rest.and_then(|rest: usize| rest.checked_sub(data.len())).ok_or_else(second)?);
            read(data)?;
        }
    }
    Err(CallError::malformed(format!("{name}: the answer ends within its message")))
}

/// Returns a message with its header.
fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(HEADER + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a request is small"));
    framed.extend_from_slice(&message);
    framed.freeze()
}
