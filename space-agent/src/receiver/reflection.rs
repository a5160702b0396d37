//! gRPC reflection (`grpc.reflection.v1` and `v1alpha`) on the OTLP listener: `grpcurl` and `ghz` need no `.proto` files.
//!
//! A stream of questions, each answered as it comes. Descriptors are parts of the program and never copied; a question has 1 KiB at
//! most, and a stream ends after 30 s.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use perigee_shared::otlp::protobuf::{Fields, Value, put_bytes, put_tag, put_varint};
use perigee_shared::otlp::status::Status;
use perigee_shared::signal::Signal;
use tokio::time::Sleep;
use tonic::Code;

use super::body::READ_TIMEOUT;
use super::health::service_of;

/// The method's paths.
const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Bytes of a question.
const LARGEST: usize = 1024;

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Whether reflection is asked for.
pub(super) fn is_at(path: &str) -> bool {
    PATHS.contains(&path)
}

/// The answers to the questions in a request, as a body that ends with the status.
pub(super) struct Answers {
    questions: Incoming,
    read: BytesMut,
    out: VecDeque<Bytes>,
    deadline: Pin<Box<Sleep>>,
    over: bool,
}

impl Answers {
    pub(super) fn new(questions: Incoming) -> Self {
        let deadline = Box::pin(tokio::time::sleep(READ_TIMEOUT));
        Self { questions, read: BytesMut::new(), out: VecDeque::new(), deadline, over: false }
    }

    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if let Some(bytes) = self.out.pop_front() {
                return Poll::Ready(Some(Frame::data(bytes)));
            }
            if self.over {
                return Poll::Ready(None);
            }
            match question(&mut self.read) {
                Ok(Some(question)) => self.out = answer(&question),
                Ok(None) => match Pin::new(&mut self.questions).poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.read.extend_from_slice(&frame.into_data().unwrap_or_default());
                    }
                    Poll::Ready(Some(Err(_))) => {
                        return self.end(Code::Cancelled, "the request was broken off");
                    }
                    Poll::Ready(None) => return self.end(Code::Ok, ""),
                    Poll::Pending => {
                        ready!(self.deadline.as_mut().poll(context));
                        return self.end(Code::DeadlineExceeded, "the questions took too long");
                    }
                },
                Err(status) => return self.end(status.code, &status.message),
            }
        }
    }

    fn end(&mut self, code: Code, message: &str) -> Poll<Option<Frame<Bytes>>> {
        self.over = true;
        let status = Status::refuse(code, message);
        let mut trailers = HeaderMap::new();
        // Its words have no character that a header cannot have.
        drop(status.to_tonic().add_header(&mut trailers));
        Poll::Ready(Some(Frame::trailers(trailers)))
    }
}

/// The next question, when it is whole.
fn question(read: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some(prefix) = read.first_chunk::<PREFIX>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 {
        return Err(Status::refuse(Code::Unimplemented, "reflection takes no compressed messages"));
    }
    if length > LARGEST {
        return Err(Status::refuse(Code::ResourceExhausted, "the question is too long"));
    }
    if read.len() < PREFIX + length {
        return Ok(None);
    }
    read.advance(PREFIX);
    Ok(Some(read.split_to(length).freeze()))
}

/// The `ServerReflectionResponse` to a `ServerReflectionRequest`, framed, in pieces.
fn answer(question: &[u8]) -> VecDeque<Bytes> {
    let mut head = Vec::new();
    put_bytes(&mut head, 2, question);
    let mut files = Vec::new();
    // The last of several questions counts, as in any oneof.
    let asked =
        Fields::new(question).map_while(Result::ok).filter(|field| (3..=7).contains(&field.number)).last();
    let text = |value: Value<'_>| match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let asked = asked.map(|field| (field.number, text(field.value)));
    match &asked {
        Some((3, name)) => match files_with(|file| file.name == *name) {
            found if found.is_empty() => put_error(&mut head, &format!("no file {name}")),
            found => files = found,
        },
        Some((4, symbol)) => match files_with(|file| file.defines(symbol)) {
            found if found.is_empty() => put_error(&mut head, &format!("no symbol {symbol}")),
            found => files = found,
        },
        Some((6, name)) if all().any(|file| file.defines(name)) => {
            let mut none = Vec::new();
            put_bytes(&mut none, 1, name.as_bytes());
            put_bytes(&mut head, 5, &none);
        }
        Some((7, _)) => put_bytes(&mut head, 6, &services()),
        _ => put_error(&mut head, "OTLP has no extensions"),
    }
    framed(head, &files)
}

/// A message that begins with `head` and ends with a `FileDescriptorResponse` of these files, if there are any.
fn framed(mut head: Vec<u8>, files: &[&'static [u8]]) -> VecDeque<Bytes> {
    let mut pieces = Vec::new();
    for file in files {
        let mut before = Vec::new();
        put_tag(&mut before, 1, 2);
        put_varint(&mut before, file.len() as u64);
        pieces.extend([Bytes::from(before), Bytes::from_static(file)]);
    }
    let length: usize = pieces.iter().map(Bytes::len).sum();
    if length > 0 {
        put_tag(&mut head, 4, 2);
        put_varint(&mut head, length as u64);
    }
    let mut prefix = vec![0];
    prefix.extend(((head.len() + length) as u32).to_be_bytes());
    prefix.extend(head);
    [Bytes::from(prefix)].into_iter().chain(pieces).collect()
}

/// An `ErrorResponse` of NOT_FOUND.
fn put_error(out: &mut Vec<u8>, message: &str) {
    let mut error = Vec::new();
    put_tag(&mut error, 1, 0);
    put_varint(&mut error, Code::NotFound as u64);
    put_bytes(&mut error, 2, message.as_bytes());
    put_bytes(out, 7, &error);
}

/// A `ListServiceResponse`.
fn services() -> Vec<u8> {
    Signal::ALL.into_iter().fold(Vec::new(), |mut out, signal| {
        let mut service = Vec::new();
        put_bytes(&mut service, 1, service_of(signal).as_bytes());
        put_bytes(&mut out, 1, &service);
        out
    })
}

/// A `FileDescriptorProto`.
struct File {
    bytes: &'static [u8],
    name: &'static str,
    package: &'static str,
    /// The names of the files that it needs.
    needs: Vec<&'static str>,
    /// Its messages, enums and services.
    names: Vec<&'static str>,
}

impl File {
    fn read(bytes: &'static [u8]) -> Self {
        let mut file = Self { bytes, name: "", package: "", needs: Vec::new(), names: Vec::new() };
        for field in Fields::new(bytes).map_while(Result::ok) {
            let Value::Bytes(value) = field.value else { continue };
            let text = std::str::from_utf8(value).unwrap_or_default();
            match field.number {
                1 => file.name = text,
                2 => file.package = text,
                3 => file.needs.push(text),
                4..=6 => file.names.extend(first_text(value)),
                _ => {}
            }
        }
        file
    }

    /// Whether a symbol, or what it lies in, is defined here.
    fn defines(&self, symbol: &str) -> bool {
        let rest = symbol.strip_prefix(self.package).and_then(|rest| rest.strip_prefix('.'));
        rest.is_some_and(|rest| self.names.contains(&rest.split('.').next().unwrap_or_default()))
    }
}

/// The name in a descriptor, which is its first field.
fn first_text(descriptor: &'static [u8]) -> Option<&'static str> {
    let mut fields = Fields::new(descriptor).map_while(Result::ok);
    fields.find_map(|field| match (field.number, field.value) {
        (1, Value::Bytes(name)) => std::str::from_utf8(name).ok(),
        _ => None,
    })
}

/// OTLP's files, each after those that it needs.
fn all() -> impl DoubleEndedIterator<Item = File> {
    let files =
        Fields::new(perigee_proto::OTLP).map_while(Result::ok).filter_map(|field| match field.value {
            Value::Bytes(file) => Some(File::read(file)),
            _ => None,
        });
    files.collect::<Vec<_>>().into_iter()
}

/// The first file that is meant, and all that it needs behind it.
fn files_with(is: impl Fn(&File) -> bool) -> Vec<&'static [u8]> {
    let mut wanted: Vec<&str> = Vec::new();
    let mut out = Vec::new();
    for file in all().rev() {
        if wanted.contains(&file.name) || wanted.is_empty() && is(&file) {
            wanted.push(file.name);
            wanted.extend(file.needs);
            out.push(file.bytes);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(number: u32, text: &str) -> Vec<u8> {
        let mut question = Vec::new();
        put_bytes(&mut question, number, text.as_bytes());
        let whole: Vec<u8> = answer(&question).into_iter().flatten().collect();
        let length = u32::from_be_bytes([whole[1], whole[2], whole[3], whole[4]]) as usize;
        assert_eq!((whole[0], whole.len()), (0, PREFIX + length));
        whole[PREFIX..].to_vec()
    }

    /// The bytes of the fields with a number.
    fn of(message: &[u8], number: u32) -> Vec<Vec<u8>> {
        let fields = Fields::new(message).map(Result::unwrap).filter(|field| field.number == number);
        fields
            .filter_map(|field| if let Value::Bytes(b) = field.value { Some(b.to_vec()) } else { None })
            .collect()
    }

    fn named(files: &[Vec<u8>]) -> Vec<String> {
        files.iter().map(|file| String::from_utf8(of(file, 1).remove(0)).unwrap()).collect()
    }

    const TRACES: &str = "opentelemetry.proto.collector.trace.v1.TraceService";

    #[test]
    fn services_are_listed_and_described_with_all_that_they_need() {
        let services = of(&of(&ask(7, ""), 6)[0], 1);
        assert_eq!(named(&services), Signal::ALL.map(service_of));
        let expected = [
            "opentelemetry/proto/collector/trace/v1/trace_service.proto",
            "opentelemetry/proto/trace/v1/trace.proto",
            "opentelemetry/proto/resource/v1/resource.proto",
            "opentelemetry/proto/common/v1/common.proto",
        ];
        for (number, text) in [(4, TRACES), (4, &format!("{TRACES}.Export")), (3, expected[0])] {
            assert_eq!(named(&of(&of(&ask(number, text), 4)[0], 1)), expected, "{text}");
        }
        for signal in Signal::ALL {
            assert_eq!(of(&of(&ask(4, service_of(signal)), 4)[0], 1).len(), 4, "{signal}");
        }
        let span = named(&of(&of(&ask(4, "opentelemetry.proto.trace.v1.Span.Event"), 4)[0], 1));
        assert_eq!(span, expected[1..]);
    }

    #[test]
    fn what_is_not_there_is_an_error_and_the_stream_goes_on() {
        for (number, text) in
            [(3, "x.proto"), (4, "opentelemetry.proto.trace.v1.Spam"), (4, ""), (5, ""), (6, "x"), (9, "")]
        {
            let answer = ask(number, text);
            assert_eq!(of(&answer, 7).len(), 1, "{number} {text}");
            assert!(of(&answer, 4).is_empty());
        }
        let none = ask(6, "opentelemetry.proto.trace.v1.Span");
        assert_eq!(of(&none, 5).len(), 1, "it is known and has no extensions");
    }

    #[test]
    fn questions_are_read_as_they_come_and_bounded() {
        let mut read = BytesMut::from(&[0, 0, 0, 0, 2, 7][..]);
        assert_eq!(question(&mut read).unwrap(), None);
        read.extend_from_slice(&[8, 0, 0, 0, 0, 0]);
        assert_eq!(question(&mut read).unwrap().unwrap(), [7, 8][..]);
        assert_eq!(question(&mut read).unwrap().unwrap(), [][..]);
        assert_eq!(question(&mut read).unwrap(), None);
        assert_eq!(
            question(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).unwrap_err().code,
            Code::Unimplemented
        );
        assert_eq!(
            question(&mut BytesMut::from(&[0, 0, 0, 4, 1][..])).unwrap_err().code,
            Code::ResourceExhausted
        );
    }
}
