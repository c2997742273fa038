/* judge.c - hands over what a generated model answers, for `ndtool check`.
 *   judge INPUTS OUTPUTS   runs every sample of the file INPUTS: raw int8 inputs in, outputs out
 *   judge                  runs the self-test
 * It is built in the place of the project's own test program, which may say anything, and uses only
 * the C API of every version. ND_MODEL and nd_model stand for the prefix; one input, one output.
 */
#include <stdint.h>
#include <stdio.h>

#include "nd_model.h"

static int8_t room[ND_MODEL_ARENA_BYTES + ND_MODEL_ARENA_ALIGN];

static int fail(const char *why)
{
    fprintf(stderr, "nd_model: %s\n", why);
    return 1;
}

static int self_test(void *arena)
{
    const nd_status status = nd_model_selftest(arena);

    if (status != ND_OK) {
        fprintf(stderr, "nd_model: golden vectors: %s\n", nd_status_str(status));
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const size_t past = (size_t)((uintptr_t)room % ND_MODEL_ARENA_ALIGN);
    int8_t *const arena = room + (ND_MODEL_ARENA_ALIGN - past) % ND_MODEL_ARENA_ALIGN;
    FILE *inputs = NULL;
    FILE *outputs = NULL;

    if (argc < 3) {
        return self_test(arena);
    }
    inputs = fopen(argv[1], "rb");
    outputs = fopen(argv[2], "wb");
    if (inputs == NULL || outputs == NULL) {
        return fail("cannot open the files");
    }
    while (fread(nd_model_input(arena), 1, ND_MODEL_INPUT_BYTES, inputs) == ND_MODEL_INPUT_BYTES) {
        if (nd_model_run(arena) != ND_OK) {
            return fail("a run failed");
        }
        if (fwrite(nd_model_output(arena), 1, ND_MODEL_OUTPUT_BYTES, outputs) !=
            ND_MODEL_OUTPUT_BYTES) {
            return fail("cannot write the outputs");
        }
    }
    return (fclose(outputs) == 0) ? 0 : fail("cannot write the outputs");
}
