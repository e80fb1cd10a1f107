use std::{borrow::Cow, str::from_utf8, sync::Arc, task::Poll};

use super::bounds::{keep, Inspector};
use super::dial::Duplex;
use crate::{error::Result, Error, Packet, PacketId};
use bytes::Bytes;
use futures_util::{
    ready,
    stream::{SplitSink, SplitStream},
    FutureExt, SinkExt, Stream, StreamExt,
};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;

type AsyncWebsocketSender = SplitSink<WebSocketStream<Box<dyn Duplex>>, Message>;
type AsyncWebsocketReceiver = SplitStream<WebSocketStream<Box<dyn Duplex>>>;

/// A general purpose asynchronous websocket transport type. Holds
/// the sender and receiver stream of a websocket connection
/// and implements the common methods `update` and `emit`. This also
/// implements `Stream`.
#[derive(Clone)]
pub(crate) struct AsyncWebsocketGeneralTransport {
    sender: Arc<Mutex<AsyncWebsocketSender>>,
    receiver: Arc<Mutex<Receiver>>,
}

struct Receiver {
    stream: AsyncWebsocketReceiver,
    inspector: Inspector,
}

impl AsyncWebsocketGeneralTransport {
    pub(crate) async fn new(
        sender: SplitSink<WebSocketStream<Box<dyn Duplex>>, Message>,
        receiver: SplitStream<WebSocketStream<Box<dyn Duplex>>>,
    ) -> Self {
        AsyncWebsocketGeneralTransport {
            sender: Arc::new(Mutex::new(sender)),
            receiver: Arc::new(Mutex::new(Receiver {
                stream: receiver,
                inspector: Inspector::new(),
            })),
        }
    }

    /// Sends probe packet to ensure connection is valid, then sends upgrade
    /// request
    pub(crate) async fn upgrade(&self) -> Result<()> {
        let mut receiver = self.receiver.lock().await;
        let mut sender = self.sender.lock().await;

        sender
            .send(Message::text(Cow::Borrowed(from_utf8(&Bytes::from(
                Packet::new(PacketId::Ping, Bytes::from("probe")),
            ))?)))
            .await?;

        let msg = receiver
            .stream
            .next()
            .await
            .ok_or(Error::IllegalWebsocketUpgrade())??;

        if msg.into_data() != Bytes::from(Packet::new(PacketId::Pong, Bytes::from("probe"))) {
            return Err(Error::InvalidPacket());
        }

        sender
            .send(Message::text(Cow::Borrowed(from_utf8(&Bytes::from(
                Packet::new(PacketId::Upgrade, Bytes::from("")),
            ))?)))
            .await?;

        Ok(())
    }

    pub(crate) async fn emit(&self, data: Bytes, is_binary_att: bool) -> Result<()> {
        let mut sender = self.sender.lock().await;

        let message = if is_binary_att {
            Message::binary(Cow::Borrowed(data.as_ref()))
        } else {
            Message::text(Cow::Borrowed(std::str::from_utf8(data.as_ref())?))
        };

        sender.send(message).await?;

        Ok(())
    }

    pub(crate) async fn poll_next(&self) -> Result<Option<Bytes>> {
        loop {
            let mut receiver = self.receiver.lock().await;
            let next = receiver.stream.next().await;
            match next {
                Some(Ok(Message::Text(packet))) => {
                    if receiver.inspector.wants(&packet)? {
                        return Ok(Some(Bytes::from(packet)));
                    }
                }
                // Attachments belong to events that are left out.
                Some(Ok(Message::Binary(_))) => (),
                Some(Ok(_)) => receiver.inspector.control()?,
                Some(Err(err)) => return Err(err.into()),
                None => return Ok(None),
            }
        }
    }
}

impl Stream for AsyncWebsocketGeneralTransport {
    type Item = Result<Bytes>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        loop {
            let mut lock = ready!(Box::pin(self.receiver.lock()).poll_unpin(cx));
            let next = ready!(lock.stream.poll_next_unpin(cx));

            match next {
                Some(Ok(Message::Text(packet))) => match lock.inspector.wants(&packet) {
                    Ok(true) => return Poll::Ready(Some(Ok(Bytes::from(packet)))),
                    Ok(false) => (),
                    Err(err) => return Poll::Ready(Some(Err(keep(err)))),
                },
                // Attachments belong to events that are left out.
                Some(Ok(Message::Binary(_))) => (),
                Some(Ok(_)) => {
                    if let Err(err) = lock.inspector.control() {
                        return Poll::Ready(Some(Err(keep(err))));
                    }
                }
                Some(Err(err)) => return Poll::Ready(Some(Err(keep(err.into())))),
                None => return Poll::Ready(None),
            }
        }
    }
}
