import { ServerInterceptingCall, type ServerInterceptingCallInterface } from "@grpc/grpc-js";

import type { Denial } from "./denial.js";

type Listener = Parameters<ServerInterceptingCall["start"]>[0];
type Responder = ConstructorParameters<typeof ServerInterceptingCall>[1];
type Status = Parameters<ServerInterceptingCall["sendStatus"]>[0];

/** A call that can be ended while its handler runs. The handler then sees a cancelled call. */
export class EndableCall extends ServerInterceptingCall {
  private listener: Listener | undefined;
  private answered = false;

  constructor(
    private readonly call: ServerInterceptingCallInterface,
    responder: Responder,
  ) {
    super(call, responder);
  }

  /** Ends the call with this status, unless it has ended. Later answers of the handler are discarded. */
  end(denial: Denial): void {
    if (this.answered) {
      return;
    }
    this.answered = true;
    this.call.sendStatus(denial.grpc());
    // gRPC would notify the handler only after the client has read everything that was sent before.
    this.cancel();
  }

  override start(listener: Listener): void {
    this.listener = listener;
    super.start({
      onReceiveMetadata: (metadata) => this.listener?.onReceiveMetadata(metadata),
      onReceiveMessage: (message) => this.listener?.onReceiveMessage(message),
      onReceiveHalfClose: () => this.listener?.onReceiveHalfClose(),
      onCancel: () => this.cancel(),
    });
  }

  override sendMetadata(...args: Parameters<ServerInterceptingCall["sendMetadata"]>): void {
    if (!this.answered) {
      super.sendMetadata(...args);
    }
  }

  override sendMessage(...args: Parameters<ServerInterceptingCall["sendMessage"]>): void {
    if (!this.answered) {
      super.sendMessage(...args);
    }
  }

  override sendStatus(status: Status): void {
    if (!this.answered) {
      this.answered = true;
      super.sendStatus(status);
    }
  }

  private cancel(): void {
    const { listener } = this;
    this.listener = undefined;
    listener?.onCancel();
  }
}
