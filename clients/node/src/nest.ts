/** A guard for Nest over HTTP, on Express and on Fastify. */
import type { IncomingMessage, ServerResponse } from "node:http";

import {
  type ArgumentsHost,
  type CanActivate,
  Catch,
  createParamDecorator,
  type CustomDecorator,
  type DynamicModule,
  type ExceptionFilter,
  type ExecutionContext,
  HttpException,
  Inject,
  Injectable,
  Module,
  type OnApplicationShutdown,
  SetMetadata,
} from "@nestjs/common";
import { APP_FILTER, APP_GUARD } from "@nestjs/core";

import { Checker } from "./checker.js";
import type { Client } from "./client.js";
import { Denial, unavailable } from "./denial.js";
import { authorizationOf, pathOf } from "./http.js";
import { guarded, type Identity as CallerIdentity } from "./identity.js";
import type { CheckOptions, HttpGuardOptions } from "./options.js";

export type { HttpGuardOptions };

export interface LatchkeyModuleOptions extends HttpGuardOptions {
  /** A client, or the address of Latchkey. */
  readonly latchkey: Client | string;
  /** `false`: only what has `@UseGuards(LatchkeyGuard)` is guarded. Default: `true`, every handler. */
  readonly everyHandler?: boolean;
}

const OPTIONS = Symbol("latchkey");
const OPEN = "latchkey:open";
const ROLE = "latchkey:role";
const SLOT = "latchkey:slot";

type Request = IncomingMessage & { originalUrl?: string; raw?: IncomingMessage };

const identities = new WeakMap<object, CallerIdentity>();

/** The identity of the caller. */
export type Identity = CallerIdentity;

/** Gives a handler the identity of the caller: `greet(@Identity() caller: Identity)`. */
export const Identity: () => ParameterDecorator = createParamDecorator((_: unknown, context: ExecutionContext) =>
  guarded(identities.get(context.switchToHttp().getRequest<object>())),
);

/** Opens a handler or a controller to everybody. */
export function Open(): CustomDecorator {
  return SetMetadata(OPEN, true);
}

/** Requires a role. On a handler it replaces that of the controller. */
export function RequiredRole(role: string): CustomDecorator {
  return SetMetadata(ROLE, role);
}

/** Requires a session in a slot. On a handler it replaces that of the controller. */
export function RequiredSlot(slot: string): CustomDecorator {
  return SetMetadata(SLOT, slot);
}

/** The answer to a request that was denied. A filter of the module sends it; `getResponse()` is its body. */
export class LatchkeyDenial extends HttpException {
  constructor(private readonly denial: Denial) {
    super(JSON.parse(denial.http().body) as object, denial.http().status, { cause: denial.cause });
  }

  /** Sends the answer with all its headers. */
  send(response: ServerResponse): void {
    this.denial.send(response);
  }
}

/** Accepts only requests whose token has a live session. */
@Injectable()
export class LatchkeyGuard implements CanActivate, OnApplicationShutdown {
  private readonly checker: Checker;
  private readonly open: ReadonlySet<string>;
  private readonly checkers = new Map<string, Checker>();

  constructor(@Inject(OPTIONS) options: LatchkeyModuleOptions) {
    this.checker = new Checker(options.latchkey, options);
    this.open = new Set(options.openPaths);
  }

  async canActivate(context: ExecutionContext): Promise<boolean> {
    if (context.getType() !== "http") {
      throw new Error("LatchkeyGuard guards HTTP: for gRPC use guard() of @latchkey-auth/client");
    }
    const request = context.switchToHttp().getRequest<Request>();
    const raw = request.raw ?? request;
    const path = pathOf(request.originalUrl ?? raw.url);
    if (isOpen(context) || this.open.has(path)) {
      return true;
    }
    const over = new AbortController();
    const abort = (): void => over.abort();
    raw.socket.once("close", abort);
    try {
      const own = this.requiring(metadata(context, ROLE), metadata(context, SLOT));
      identities.set(request, await own.check(authorizationOf(raw), path, over.signal));
      return true;
    } catch (error) {
      throw new LatchkeyDenial(error instanceof Denial ? error : unavailable(error));
    } finally {
      raw.socket.off("close", abort);
    }
  }

  onApplicationShutdown(): void {
    this.checker.close();
  }

  private requiring(requiredRole: unknown, requiredSlot: unknown): Checker {
    const required: { -readonly [name in keyof CheckOptions]: CheckOptions[name] } = {};
    if (typeof requiredRole === "string") {
      required.requiredRole = requiredRole;
    }
    if (typeof requiredSlot === "string") {
      required.requiredSlot = requiredSlot;
    }
    const key = JSON.stringify(required);
    const checker = this.checkers.get(key) ?? this.checker.requiring(required);
    this.checkers.set(key, checker);
    return checker;
  }
}

/** Sends the answers to denied requests exactly as Latchkey does. */
@Catch(LatchkeyDenial)
class LatchkeyDenialFilter implements ExceptionFilter<LatchkeyDenial> {
  catch(denial: LatchkeyDenial, host: ArgumentsHost): void {
    const response = host.switchToHttp().getResponse<ServerResponse & { raw?: ServerResponse; hijack?(): void }>();
    response.hijack?.();
    denial.send(response.raw ?? response);
  }
}

/** Provides {@link LatchkeyGuard} to the whole application: `imports: [LatchkeyModule.forRoot({ latchkey: address })]`. */
@Module({})
export class LatchkeyModule {
  static forRoot(options: LatchkeyModuleOptions): DynamicModule {
    const everywhere = options.everyHandler === false ? [] : [{ provide: APP_GUARD, useExisting: LatchkeyGuard }];
    return {
      module: LatchkeyModule,
      global: true,
      providers: [
        { provide: OPTIONS, useValue: options },
        LatchkeyGuard,
        { provide: APP_FILTER, useClass: LatchkeyDenialFilter },
        ...everywhere,
      ],
      exports: [OPTIONS, LatchkeyGuard],
    };
  }
}

/** Returns what a decorator has set on the handler, or else on its controller. */
function metadata(context: ExecutionContext, key: string): unknown {
  return Reflect.getMetadata(key, context.getHandler()) ?? Reflect.getMetadata(key, context.getClass());
}

/** What requires a role or a slot is not open, even if its controller is. */
function isOpen(context: ExecutionContext): boolean {
  for (const target of [context.getHandler(), context.getClass()]) {
    if ([ROLE, SLOT].some((key) => Reflect.hasMetadata(key, target))) {
      return false;
    }
    if (Reflect.getMetadata(OPEN, target) === true) {
      return true;
    }
  }
  return false;
}
