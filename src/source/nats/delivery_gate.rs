//! The delivery gate: lets a hub pause the delivery of its queue while another hub may have taken
//! over the same entries, so that they are not delivered twice.

use std::future::pending;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::HUB_HOLD;

/// The capacity of the channel from a hub to the agent's delivery; the hub waits for each request.
const HUB_ORDERS: usize = 4;

/// An instruction to the delivery to the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateCommand {
    /// Pauses the delivery.
    Hold,
    /// Resumes the delivery of the queue.
    Deliver,
    /// Reconnects, to ask the server what it has: another hub has delivered meanwhile.
    Renew,
}

/// An order, confirmed through `done` once it is carried out.
#[derive(Debug)]
pub(crate) struct GateRequest {
    pub command: GateCommand,
    /// [`None`] if no caller waits for the confirmation.
    pub done: Option<oneshot::Sender<()>>,
}

/// The sending end, used by the hub.
#[derive(Clone, Debug)]
pub(crate) struct DeliveryGate(mpsc::Sender<GateRequest>);

/// The receiving end, used by the delivery.
#[derive(Debug)]
pub(crate) struct GateRequests {
    inbox: mpsc::Receiver<GateRequest>,
    /// When to resume without an order, because NATS may be down for long while the dashboard is
    /// up.
    deliver_at: Option<Instant>,
}

/// Creates both ends of the gate. The delivery starts paused.
pub(crate) fn delivery_gate() -> (DeliveryGate, GateRequests) {
    let (sender, inbox) = mpsc::channel(HUB_ORDERS);
    (DeliveryGate(sender), GateRequests { inbox, deliver_at: Some(Instant::now() + HUB_HOLD) })
}

impl DeliveryGate {
    /// Sends an order and waits until it is carried out or the receiving end is gone.
    pub(super) async fn give(&self, order: GateCommand) {
        let (done, carried_out) = oneshot::channel();
        if self.0.send(GateRequest { command: order, done: Some(done) }).await.is_ok() {
            let _ = carried_out.await;
        }
    }
}

impl GateRequests {
    /// The next order. Returns [`GateCommand::Deliver`] at the latest [`HUB_HOLD`] after the delivery was
    /// paused. Safe to cancel.
    pub(crate) async fn next(&mut self) -> GateRequest {
        let received = match self.deliver_at {
            Some(at) => timeout_at(at, self.inbox.recv()).await,
            None => Ok(self.inbox.recv().await),
        };
        let ordered = match received {
            Ok(Some(ordered)) => ordered,
            // The hub has ended because the queue is closed.
            Ok(None) => pending().await,
            Err(_) => GateRequest { command: GateCommand::Deliver, done: None },
        };
        self.deliver_at = match ordered.command {
            GateCommand::Hold => self.deliver_at.or_else(|| Some(Instant::now() + HUB_HOLD)),
            GateCommand::Deliver => None,
            GateCommand::Renew => self.deliver_at,
        };
        ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn paused_delivery_resumes_after_the_maximum_pause() {
        let (gate, mut orders) = delivery_gate();
        let started = Instant::now();
        assert_eq!(orders.next().await.command, GateCommand::Deliver);
        assert_eq!(started.elapsed(), HUB_HOLD);
        let hub = gate.clone();
        let asking = tokio::spawn(async move {
            hub.give(GateCommand::Hold).await;
            hub.give(GateCommand::Renew).await;
        });
        for command in [GateCommand::Hold, GateCommand::Renew, GateCommand::Deliver] {
            assert_eq!(orders.next().await.command, command);
        }
        assert_eq!(started.elapsed(), 2 * HUB_HOLD);
        asking.await.unwrap();
        drop(gate);
    }
}
