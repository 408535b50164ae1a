/* The C ABI between a restage plugin and the host that loads it: `src/abi.rs` of the crate `restage-stage`, from
   which this file is generated and which says who owns what, what may grow and which thread calls.

   A plugin is a shared library that exports `restage_plugin_entry_v1`; `tests/c/plugin.c` is one. */

#ifndef RESTAGE_STAGE_H
#define RESTAGE_STAGE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
/* First word of every RestagePlugin. */
#define RESTAGE_MAGIC UINT64_C(0x3145474154534552)

/**
 * ABI version that must be equal on both sides.
 */
#define RESTAGE_MAJOR 1

/**
 * ABI version that may differ: a larger one only adds.
 */
#define RESTAGE_MINOR 0

/**
 * What a call into a plugin ended with; any other value is a violation of the protocol.
 */
enum RestageStatus
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done.
   */
  RESTAGE_STATUS_OK = 0,
  /**
   * The stage says that it could not; the sink holds a JSON array of messages, outermost first.
   */
  RESTAGE_STATUS_FAILED = 1,
  /**
   * The stage panicked; the sink holds the message and its place in the source.
   */
  RESTAGE_STATUS_PANICKED = 2,
  /**
   * The stage stopped because it was asked to.
   */
  RESTAGE_STATUS_CANCELLED = 3,
  /**
   * The plugin does not know the stage type or the request.
   */
  RESTAGE_STATUS_UNSUPPORTED = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum RestageStatus RestageStatus;
#else
typedef uint32_t RestageStatus;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Bytes that are lent for the length of a call. A null pointer goes with a length of zero.
 */
typedef struct RestageBytes {
  /**
   * The first byte.
   */
  const uint8_t *ptr;
  /**
   * How many there are.
   */
  uintptr_t len;
} RestageBytes;

/**
 * Where the callee writes an answer of any length; `write` appends and copies.
 */
typedef struct RestageSink {
  /**
   * The caller's own; handed back with each write.
   */
  void *ctx;
  /**
   * Appends the bytes.
   */
  void (*write)(void *ctx, struct RestageBytes bytes);
} RestageSink;

/**
 * What a host offers to the plugin that it loaded.
 */
typedef struct RestageHost {
  /**
   * `size_of::<Host>()` on the host's side.
   */
  uint32_t size;
  /**
   * [`MAJOR`].
   */
  uint16_t major;
  /**
   * [`MINOR`].
   */
  uint16_t minor;
  /**
   * The host's own; handed back with each call.
   */
  void *ctx;
  /**
   * Takes one [event](crate::task::Event) (JSON). May be called from any thread.
   */
  void (*emit)(void *ctx, struct RestageBytes event);
  /**
   * 1 once the running task should stop. Cheap. May be called from any thread.
   */
  uint32_t (*cancelled)(void *ctx);
} RestageHost;

/**
 * What a plugin offers.
 */
typedef struct RestagePlugin {
  /**
   * [`MAGIC`].
   */
  uint64_t magic;
  /**
   * `size_of::<Plugin>()` on the plugin's side.
   */
  uint32_t size;
  /**
   * [`MAJOR`].
   */
  uint16_t major;
  /**
   * [`MINOR`].
   */
  uint16_t minor;
  /**
   * Writes the [catalogue](crate::catalogue::Catalogue) as JSON.
   */
  uint32_t (*describe)(const struct RestageSink *sink);
  /**
   * Validates a stage's params (JSON) and writes them in canonical form, defaults filled.
   */
  uint32_t (*check)(struct RestageBytes stage, struct RestageBytes params, const struct RestageSink *sink);
  /**
   * Begins a session; `host` outlives it.
   */
  uint32_t (*open)(const struct RestageHost *host, void **session);
  /**
   * Runs one [task](crate::task::Task) (JSON) to its end. Errors go to the sink.
   */
  uint32_t (*run)(void *session, struct RestageBytes task, const struct RestageSink *error);
  /**
   * Ends a session.
   */
  void (*close)(void *session);
} RestagePlugin;

#endif  /* RESTAGE_STAGE_H */

/* The one symbol that a plugin exports. */
const RestagePlugin *restage_plugin_entry_v1(void);
