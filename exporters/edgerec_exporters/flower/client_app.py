"""The gateway's side: a ClientApp that answers a round with the gateway's deltas."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from edgerec_exporters.flower import refuse_telemetry
from edgerec_exporters.flower.holdings import opened
from edgerec_exporters.flower.messages import OFFER, asked, offering, with_rows, with_total

refuse_telemetry()
app = ClientApp()


@app.query(OFFER.partition(".")[2])
def offer(message: Message, context: Context) -> Message:
    """What this gateway holds for a round: ids, versions, sizes and senders, the last as numbers of its own."""
    ask = asked(message.content)
    with opened(context.node_config) as holdings:
        return Message(offering(holdings.waiting(ask)), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """The validated deltas that are asked for, as rows of one array float32 (n, d), and their ids; in split mode the
    sum of their shares. What goes wrong becomes Flower's error reply: the round goes on without this gateway.
    """
    ask = asked(message.content)
    with opened(context.node_config) as holdings:
        answer = with_total(holdings.total(ask), ask.ids) if ask.split else with_rows(holdings.rows(ask))
    return Message(answer, reply_to=message)
