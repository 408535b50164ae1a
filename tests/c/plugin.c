/* A plugin in C: one stage type, `c/greet`, which writes a text. What is JSON here is read by hand, as a plugin with one
   param can afford; `restage_stage.h` says who owns what. */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "restage_stage.h"

static const RestageHost *host;

static RestageBytes lend(const char *text) {
    RestageBytes bytes = {(const uint8_t *)text, strlen(text)};
    return bytes;
}

static void answer(const RestageSink *sink, const char *text) { sink->write(sink->ctx, lend(text)); }

static int is(RestageBytes bytes, const char *text) {
    return bytes.len == strlen(text) && memcmp(bytes.ptr, text, bytes.len) == 0;
}

static uint32_t describe(const RestageSink *sink) {
    answer(sink, "{\"plugin\": \"c\", \"version\": \"1\", \"stages\": [{\"name\": \"greet\", \"doc\": \"Writes a greeting.\","
                 " \"seeded\": true, \"inputs\": [], \"outputs\": [{\"name\": \"text\", \"type\": \"any\", \"doc\": \"It.\"}],"
                 " \"params\": {\"type\": \"object\", \"additionalProperties\": false, \"properties\": {\"fail\":"
                 " {\"type\": \"boolean\", \"default\": false, \"description\": \"Whether it fails.\"}}}}]}");
    return RESTAGE_STATUS_OK;
}

/* The text between `before` and the next quote, somewhere in the task. */
static int find(RestageBytes task, const char *before, char *found, size_t size) {
    size_t skip = strlen(before);
    for (size_t at = 0; at + skip <= task.len; at++) {
        if (memcmp(task.ptr + at, before, skip) != 0) continue;
        size_t length = 0;
        while (at + skip + length < task.len && task.ptr[at + skip + length] != '"') length++;
        if (length + 1 > size) return 0;
        memcpy(found, task.ptr + at + skip, length);
        found[length] = 0;
        return 1;
    }
    return 0;
}

/* Canonical: the one param is there, whether or not it was given. */
static uint32_t check(RestageBytes stage, RestageBytes params, const RestageSink *sink) {
    char name[64], message[128];
    if (!is(stage, "greet")) return RESTAGE_STATUS_UNSUPPORTED;
    if (is(params, "{}") || is(params, "{\"fail\":false}")) {
        answer(sink, "{\"fail\":false}");
        return RESTAGE_STATUS_OK;
    }
    if (is(params, "{\"fail\":true}")) {
        answer(sink, "{\"fail\":true}");
        return RESTAGE_STATUS_OK;
    }
    if ((find(params, "{\"", name, sizeof name) && strcmp(name, "fail") != 0) ||
        find(params, ",\"", name, sizeof name)) {
        snprintf(message, sizeof message, "[\"there is no param `%s`\"]", name);
        answer(sink, message);
        return RESTAGE_STATUS_FAILED;
    }
    answer(sink, "[\"`fail` is true or false\"]");
    return RESTAGE_STATUS_FAILED;
}

static uint32_t open_session(const RestageHost *given, void **session) {
    host = given;
    *session = NULL;
    return RESTAGE_STATUS_OK;
}

static uint32_t run(void *session, RestageBytes task, const RestageSink *error) {
    (void)session;
    char folder[4096], path[4200], ignored[8];
    if (find(task, "\"fail\":true", ignored, sizeof ignored)) {
        answer(error, "[\"greeting failed\", \"it was asked to\"]");
        return RESTAGE_STATUS_FAILED;
    }
    if (host->cancelled(host->ctx)) return RESTAGE_STATUS_CANCELLED;
    if (!find(task, "\"outputs\":{\"text\":\"", folder, sizeof folder) || (mkdir(folder, 0755) != 0 && errno != EEXIST)) {
        answer(error, "[\"cannot make the output folder\"]");
        return RESTAGE_STATUS_FAILED;
    }
    host->emit(host->ctx, lend("{\"event\": \"progress\", \"done\": 1, \"total\": 1, \"unit\": \"texts\"}"));
    snprintf(path, sizeof path, "%s/text", folder);
    FILE *file = fopen(path, "w");
    if (file == NULL || fputs("hello from C", file) == EOF || fclose(file) != 0) {
        answer(error, "[\"cannot write the text\"]");
        return RESTAGE_STATUS_FAILED;
    }
    return RESTAGE_STATUS_OK;
}

static void close_session(void *session) { (void)session; }

static const RestagePlugin plugin = {
    .magic = RESTAGE_MAGIC,
    .size = sizeof(RestagePlugin),
    .major = RESTAGE_MAJOR,
    .minor = RESTAGE_MINOR,
    .describe = describe,
    .check = check,
    .open = open_session,
    .run = run,
    .close = close_session,
};

const RestagePlugin *restage_plugin_entry_v1(void) { return &plugin; }
