//! A service of gRPC and its client, made by tonic; messages are bytes, as nothing here looks into them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, stream};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, BoxStream, Context, Poll, Service, http};
use tonic::server::{ClientStreamingService, Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::support::{free_port, wait_until};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// What the service has seen.
#[derive(Clone, Default)]
pub struct Calls {
    pub begun: Arc<AtomicUsize>,
    /// Those that have come to hang.
    pub hanging: Arc<AtomicUsize>,
    /// Those that hang and were given up by their client.
    pub cancelled: Arc<AtomicUsize>,
}

/// A call that hangs.
struct Hanging(Arc<AtomicUsize>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Calls {
    /// Hangs from now on, polled or not.
    fn hang<T>(self) -> impl Future<Output = T> {
        self.hanging.fetch_add(1, SeqCst);
        let hanging = Hanging(self.cancelled);
        async move {
            let _hanging = hanging;
            std::future::pending().await
        }
    }
}

/// Echoes, fails, hangs or tells the deadline, as the message says.
struct Unary(Calls);

impl UnaryService<Bytes> for Unary {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let calls = self.0.clone();
        Box::pin(async move {
            match &request.get_ref()[..] {
                b"fail" => Err(Status::permission_denied("not for you")),
                b"hang" => calls.hang().await,
                b"deadline" => {
                    let told = request.metadata().get("grpc-timeout");
                    let told = told.map_or("none", |value| value.to_str().unwrap_or_default());
                    Ok(Response::new(Bytes::from(told.to_owned())))
                }
                _ => {
                    let mut response = Response::new(request.get_ref().clone());
                    response.metadata_mut().insert("x-head", "1".parse().unwrap());
                    Ok(response)
                }
            }
        })
    }
}

/// As many messages as the one that asks has bytes; then it fails or hangs, if that begins so.
struct ServerStreams(Calls);

impl ServerStreamingService<Bytes> for ServerStreams {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<BoxStream<Bytes>>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let calls = self.0.clone();
        let asked = request.into_inner();
        let messages = (0..asked.len()).map(|at| Ok(Bytes::from(at.to_string())));
        let messages = stream::iter(messages.collect::<Vec<_>>());
        let last = match &asked.get(..4) {
            Some(b"fail") => stream::iter([Err(Status::data_loss("that is all"))]).boxed(),
            Some(b"hang") => stream::once(calls.hang()).boxed(),
            _ => stream::empty().boxed(),
        };
        Box::pin(async move { Ok(Response::new(messages.chain(last).boxed())) })
    }
}

/// How many messages and bytes came.
struct ClientStreams;

impl ClientStreamingService<Bytes> for ClientStreams {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move {
            let mut messages = request.into_inner();
            let (mut count, mut bytes) = (0, 0);
            while let Some(message) = messages.message().await? {
                count += 1;
                bytes += message.len();
            }
            Ok(Response::new(Bytes::from(format!("{count} of {bytes} bytes"))))
        })
    }
}

/// Answers each message with the same.
struct BothStream;

impl StreamingService<Bytes> for BothStream {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<BoxStream<Bytes>>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let messages = request.into_inner();
        Box::pin(async move { Ok(Response::new(messages.boxed())) })
    }
}

impl Service<http::Request<Body>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.begun.fetch_add(1, SeqCst);
        let calls = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/test.T/Unary" => grpc.unary(Unary(calls), request).await,
                "/test.T/Server" => grpc.server_streaming(ServerStreams(calls), request).await,
                "/test.T/Client" => grpc.client_streaming(ClientStreams, request).await,
                "/test.T/Both" => grpc.streaming(BothStream, request).await,
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

/// Runs the service on a thread of its own, for as long as the tests last; where it listens.
pub fn serve(calls: &Calls) -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let calls = calls.clone();
    thread::spawn(move || {
        let server = Server::builder().serve(address, calls);
        runtime().block_on(server).expect("the service listens");
    });
    wait_until("the service listens", || {
        std::net::TcpStream::connect(address).ok()
    });
    address.to_string()
}

pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime can be had")
}

/// A connection of a client to Atlas.
pub async fn connect(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is a URL");
    let channel = endpoint.connect().await.expect("Atlas accepts");
    Client(tonic::client::Grpc::new(channel))
}

/// Calls by their name.
#[derive(Clone)]
pub struct Client(tonic::client::Grpc<Channel>);

type Called<T> = Result<Response<T>, Status>;

fn path(name: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static(name)
}

impl Client {
    pub async fn unary(&mut self, request: Request<Bytes>) -> Called<Bytes> {
        self.0.ready().await.expect("Atlas serves");
        self.0.unary(request, path("/test.T/Unary"), Raw).await
    }

    pub async fn say(&mut self, message: &'static str) -> Called<Bytes> {
        self.unary(Request::new(Bytes::from_static(message.as_bytes())))
            .await
    }

    pub async fn server(&mut self, asks: &'static str) -> Called<Streaming<Bytes>> {
        self.0.ready().await.expect("Atlas serves");
        let request = Request::new(Bytes::from_static(asks.as_bytes()));
        self.0
            .server_streaming(request, path("/test.T/Server"), Raw)
            .await
    }

    pub async fn client(&mut self, messages: Vec<Bytes>) -> Called<Bytes> {
        self.0.ready().await.expect("Atlas serves");
        let request = Request::new(stream::iter(messages));
        self.0
            .client_streaming(request, path("/test.T/Client"), Raw)
            .await
    }

    pub async fn both(
        &mut self,
        messages: impl futures_util::Stream<Item = Bytes> + Send + 'static,
    ) -> Called<Streaming<Bytes>> {
        self.0.ready().await.expect("Atlas serves");
        self.0
            .streaming(Request::new(messages), path("/test.T/Both"), Raw)
            .await
    }

    pub async fn unknown(&mut self) -> Called<Bytes> {
        self.0.ready().await.expect("Atlas serves");
        self.0
            .unary(Request::new(Bytes::new()), path("/test.T/Unknown"), Raw)
            .await
    }
}
