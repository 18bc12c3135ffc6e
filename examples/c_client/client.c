// Computes the log-likelihood of examples under an exported model with the C API of TensorFlow. See README.md.
// An error ends the program immediately, and the operating system frees its memory.

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

#define MAX_RANK 8

static _Noreturn void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("client: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static void check(const TF_Status *status, const char *action) {
  if (TF_GetCode(status) != TF_OK) fail("%s failed: %s", action, TF_Message(status));
}

static void *allocate(void *old, size_t size) {
  void *memory = realloc(old, size);
  if (memory == NULL) fail("out of memory");
  return memory;
}

// ---------------------------------------------------------------------------------------------------------------
// Parsing of protocol buffers, as far as a signature needs it. A message is a sequence of fields. Each field consists
// of a tag (field number and wire type) and a value. Fields that are not needed are skipped.

// Field numbers, from TensorFlow's meta_graph.proto and tensor_shape.proto.
enum { META_GRAPH_SIGNATURES = 5, SIGNATURE_INPUTS = 1, SIGNATURE_OUTPUTS = 2 };
enum { MAP_KEY = 1, MAP_VALUE = 2 };
enum { TENSOR_NAME = 1, TENSOR_DTYPE = 2, TENSOR_SHAPE = 3, SHAPE_DIM = 2, DIM_SIZE = 1 };

typedef struct {
  const uint8_t *start, *end;
} Bytes;

typedef struct {
  uint64_t number;
  uint64_t integer;  // the value of a number
  Bytes bytes;       // the value of a string or a message
} Field;

static Bytes take(Bytes *message, uint64_t size) {
  if (size > (uint64_t)(message->end - message->start)) fail("the model's MetaGraphDef is malformed");
  Bytes taken = {message->start, message->start + size};
  message->start = taken.end;
  return taken;
}

static uint64_t take_varint(Bytes *message) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    uint8_t byte = *take(message, 1).start;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail("the model's MetaGraphDef is malformed");
}

static bool next_field(Bytes *message, Field *field) {
  if (message->start == message->end) return false;
  uint64_t tag = take_varint(message);
  *field = (Field){.number = tag >> 3};
  switch (tag & 7) {
    case 0: field->integer = take_varint(message); break;
    case 1: take(message, 8); break;
    case 2: field->bytes = take(message, take_varint(message)); break;
    case 5: take(message, 4); break;
    default: fail("the model's MetaGraphDef is malformed");
  }
  return true;
}

// A map is a repeated field. Each entry is a message with a key and a value.
static Bytes find_in_map(Bytes message, uint64_t map, const char *key) {
  Field entry, field;
  while (next_field(&message, &entry)) {
    if (entry.number != map) continue;
    Bytes found_key = {0}, value = {0};
    while (next_field(&entry.bytes, &field)) {
      if (field.number == MAP_KEY) found_key = field.bytes;
      if (field.number == MAP_VALUE) value = field.bytes;
    }
    size_t size = (size_t)(found_key.end - found_key.start);
    if (size == strlen(key) && memcmp(found_key.start, key, size) == 0) return value;
  }
  fail("the model has no \"%s\"", key);
}

// ---------------------------------------------------------------------------------------------------------------
// The model, and the tensors in its graph that a signature refers to.

typedef struct {
  TF_Graph *graph;
  TF_Session *session;
  TF_Buffer *meta_graph;
} Model;

typedef struct {
  TF_Output place;
  TF_DataType dtype;
  int rank;
  int64_t dims[MAX_RANK];  // -1: any size
} TensorInfo;

static Model load_model(const char *directory, TF_Status *status) {
  const char *tags[] = {"serve"};
  Model model = {.graph = TF_NewGraph(), .meta_graph = TF_NewBuffer()};
  TF_SessionOptions *options = TF_NewSessionOptions();
  model.session =
      TF_LoadSessionFromSavedModel(options, NULL, directory, tags, 1, model.graph, model.meta_graph, status);
  check(status, "loading the model");
  TF_DeleteSessionOptions(options);
  return model;
}

static void delete_model(Model *model, TF_Status *status) {
  TF_CloseSession(model->session, status);
  check(status, "closing the session");
  TF_DeleteSession(model->session, status);
  TF_DeleteGraph(model->graph);
  TF_DeleteBuffer(model->meta_graph);
}

// The name of a tensor consists of the name of an operation, a colon, and the index of the output.
static TF_Output find_output(TF_Graph *graph, Bytes name) {
  size_t size = (size_t)(name.end - name.start);
  char *text = allocate(NULL, size + 1);
  memcpy(text, name.start, size);
  text[size] = '\0';
  char *colon = strrchr(text, ':');
  if (colon == NULL) fail("\"%s\" is not the name of a tensor", text);
  *colon = '\0';
  TF_Output output = {TF_GraphOperationByName(graph, text), atoi(colon + 1)};
  free(text);
  return output;
}

static void read_shape(Bytes shape, TensorInfo *info) {
  Field dim, field;
  while (next_field(&shape, &dim)) {
    if (dim.number != SHAPE_DIM) continue;
    if (info->rank == MAX_RANK) fail("a tensor has more than %d dimensions", MAX_RANK);
    int64_t *size = &info->dims[info->rank++];
    while (next_field(&dim.bytes, &field)) {
      if (field.number == DIM_SIZE) *size = (int64_t)field.integer;
    }
  }
}

static TensorInfo read_tensor_info(TF_Graph *graph, Bytes message) {
  TensorInfo info = {0};
  Field field;
  while (next_field(&message, &field)) {
    if (field.number == TENSOR_NAME) info.place = find_output(graph, field.bytes);
    if (field.number == TENSOR_DTYPE) info.dtype = (TF_DataType)field.integer;
    if (field.number == TENSOR_SHAPE) read_shape(field.bytes, &info);
  }
  if (info.place.oper == NULL) fail("a tensor of the signature is not in the graph");
  return info;
}

// ---------------------------------------------------------------------------------------------------------------
// Reading examples and printing results.

static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
  if (file == NULL) fail("%s: %s", path, strerror(errno));
  size_t capacity = 1 << 16;
  uint8_t *data = allocate(NULL, capacity);
  *size = 0;
  for (size_t count; (count = fread(data + *size, 1, capacity - *size, file)) > 0;) {
    *size += count;
    if (*size == capacity) data = allocate(data, capacity *= 2);
  }
  if (ferror(file)) fail("%s: %s", path, strerror(errno));
  fclose(file);
  return data;
}

static TF_Tensor *read_rows(const char *path, TensorInfo x) {
  size_t size, item = TF_DataTypeSize(x.dtype), values = 1;
  if (x.rank == 0 || x.dims[0] != -1 || item == 0) fail("the model's input must be a batch of numbers");
  for (int i = 1; i < x.rank; i++) {
    if (x.dims[i] < 1) fail("the model does not specify the shape of an example");
    values *= (size_t)x.dims[i];
  }
  uint8_t *data = read_file(path, &size);
  if (size % (values * item) != 0) {
    fail("%s has %zu bytes; expected a multiple of %zu: an example has %zu values of size %zu", path, size,
         values * item, values, item);
  }
  x.dims[0] = (int64_t)(size / (values * item));
  TF_Tensor *tensor = TF_AllocateTensor(x.dtype, x.dims, x.rank, size);
  memcpy(TF_TensorData(tensor), data, size);
  free(data);
  return tensor;
}

static double value_at(const TF_Tensor *tensor, int64_t i) {
  const void *data = TF_TensorData(tensor);
  if (TF_TensorType(tensor) == TF_FLOAT) return ((const float *)data)[i];
  if (TF_TensorType(tensor) == TF_DOUBLE) return ((const double *)data)[i];
  fail("the model's output must be float32 or float64");
}

int main(int argc, char **argv) {
  if (argc != 3 && argc != 4) {
    fprintf(stderr, "usage: %s MODEL_DIR INPUT [CONDITION]\n", argv[0]);
    return 2;
  }
  TF_Status *status = TF_NewStatus();
  Model model = load_model(argv[1], status);
  Bytes meta_graph = {model.meta_graph->data, (const uint8_t *)model.meta_graph->data + model.meta_graph->length};
  Bytes signature = find_in_map(meta_graph, META_GRAPH_SIGNATURES, "serving_default");
  const char *input_names[] = {"x", "condition"};
  int num_inputs = argc - 2;
  TF_Output input_places[2];
  TF_Tensor *inputs[2];
  for (int i = 0; i < num_inputs; i++) {
    TensorInfo info = read_tensor_info(model.graph, find_in_map(signature, SIGNATURE_INPUTS, input_names[i]));
    input_places[i] = info.place;
    inputs[i] = read_rows(argv[2 + i], info);
  }
  const char *names[] = {"log_prob", "log_prob_stderr"};
  TF_Output places[2];
  for (int i = 0; i < 2; i++) {
    places[i] = read_tensor_info(model.graph, find_in_map(signature, SIGNATURE_OUTPUTS, names[i])).place;
  }

  TF_Tensor *answers[2];
  TF_SessionRun(model.session, NULL, input_places, inputs, num_inputs, places, answers, 2, NULL, 0, NULL, status);
  check(status, "running the model");
  for (int64_t i = 0; i < TF_TensorElementCount(answers[0]); i++) {
    printf("%lld\t%.9g\t%.9g\n", (long long)i, value_at(answers[0], i), value_at(answers[1], i));
  }
  if (fflush(stdout) != 0) fail("cannot write the results: %s", strerror(errno));

  for (int i = 0; i < 2; i++) TF_DeleteTensor(answers[i]);
  for (int i = 0; i < num_inputs; i++) TF_DeleteTensor(inputs[i]);
  delete_model(&model, status);
  TF_DeleteStatus(status);
  return 0;
}
