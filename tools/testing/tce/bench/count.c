// SPDX-License-Identifier: GPL-2.0
/*
 * A QEMU plugin that counts what a guest does between the marks of marks.h, on
 * all its CPUs. For each measurement it appends to the file of its argument out=:
 *
 *	block PART ADDRESS INSTRUCTIONS ENTRIES		of a translated block
 *	hcall PART OPCODE TOKEN COUNT			TOKEN of RTAS calls, else 0
 *	end
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "marks.h"
#include "plugin.h"

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 7;

#define SC_1	0x44000022u
#define H_RTAS	0xf000
#define PARTS	2

struct block {
	uint64_t address;
	int64_t length;				/* in instructions */
	int64_t instructions[PARTS], entries[PARTS];
	bool touched;
	struct block *next;
};

/* A mark, and the instructions of its block that come after it. */
struct mark {
	struct block *block;
	unsigned int what;
	int64_t rest;
};

struct call {
	unsigned int part;
	uint64_t opcode, token, count;
};

static FILE *out;
static struct qemu_plugin_u64 counting;		/* is on */
static unsigned int part;
static bool on;
static struct block *touched;
static struct call calls[1024];
static size_t nr_calls;
static struct qemu_plugin_register *r3, *r4;
static struct array *bytes;
/* Each CPU has a thread of QEMU, unless they take turns. For all but the figures of a block. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void touch(struct block *block)
{
	if (__atomic_load_n(&block->touched, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&lock);
	if (!block->touched) {
		__atomic_store_n(&block->touched, true, __ATOMIC_RELAXED);
		block->next = touched;
		touched = block;
	}
	pthread_mutex_unlock(&lock);
}

static void add(int64_t *figure, int64_t more)
{
	__atomic_fetch_add(figure, more, __ATOMIC_RELAXED);
}

static void on_block(unsigned int vcpu, void *data)
{
	struct block *block = data;

	(void)vcpu;
	touch(block);
	add(&block->instructions[part], block->length);
	add(&block->entries[part], 1);
}

/* The register as a number, whatever the byte order of the guest: the values are small. */
static uint64_t value_of(struct qemu_plugin_register *handle)
{
	uint64_t value = 0;

	g_byte_array_set_size(bytes, 0);
	if (!qemu_plugin_read_register(handle, bytes) || bytes->length != 8)
		abort();
	memcpy(&value, bytes->data, 8);
	return value >> 40 ? __builtin_bswap64(value) : value;
}

static uint32_t rtas_token(void)
{
	uint32_t token;

	g_byte_array_set_size(bytes, 0);
	if (qemu_plugin_read_memory_hwaddr(value_of(r4), bytes, sizeof(token)))
		return 0;
	memcpy(&token, bytes->data, sizeof(token));
	return __builtin_bswap32(token);
}

static void count_hcall(void)
{
	uint64_t opcode, token;
	size_t i;

	opcode = value_of(r3);
	token = opcode == H_RTAS ? rtas_token() : 0;
	for (i = 0; i < nr_calls; i++)
		if (calls[i].part == part && calls[i].opcode == opcode && calls[i].token == token)
			break;
	if (i == sizeof(calls) / sizeof(*calls))
		abort();
	if (i == nr_calls)
		calls[nr_calls++] = (struct call){ .part = part, .opcode = opcode, .token = token };
	calls[i].count++;
}

static void on_hcall(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (!on)
		return;
	pthread_mutex_lock(&lock);
	count_hcall();
	pthread_mutex_unlock(&lock);
}

static void write_all(void)
{
	for (; touched; touched = touched->next) {
		for (unsigned int i = 0; i < PARTS; i++)
			if (touched->instructions[i] || touched->entries[i])
				fprintf(out, "block %u %" PRIx64 " %" PRId64 " %" PRId64 "\n", i, touched->address,
					touched->instructions[i], touched->entries[i]);
		memset(touched->instructions, 0, sizeof(touched->instructions));
		memset(touched->entries, 0, sizeof(touched->entries));
		touched->touched = false;
	}
	for (size_t i = 0; i < nr_calls; i++)
		fprintf(out, "hcall %u %" PRIx64 " %" PRIx64 " %" PRIu64 "\n", calls[i].part, calls[i].opcode,
			calls[i].token, calls[i].count);
	nr_calls = 0;
	fprintf(out, "end\n");
	fflush(out);
}

/* The block was counted as a whole, or not at all, when it was entered. */
static void on_mark(unsigned int vcpu, void *data)
{
	struct mark *mark = data;

	(void)vcpu;
	touch(mark->block);
	if (on)
		add(&mark->block->instructions[part], -(mark->rest + 1));
	on = mark->what == MARK_FIRST || mark->what == MARK_SECOND;
	for (int i = 0; i < qemu_plugin_num_vcpus(); i++)
		qemu_plugin_u64_set(counting, i, on);
	if (on) {
		part = mark->what - MARK_FIRST;
		add(&mark->block->instructions[part], mark->rest);
	}
	if (mark->what == MARK_WRITE) {
		pthread_mutex_lock(&lock);
		write_all();
		pthread_mutex_unlock(&lock);
	}
}

static void *must_have(void *memory)
{
	return memory ? memory : (abort(), NULL);
}

static void on_translation(struct qemu_plugin_tb *tb, void *data)
{
	struct block *block = must_have(calloc(1, sizeof(*block)));
	size_t i;

	(void)data;
	block->address = qemu_plugin_tb_vaddr(tb);
	block->length = qemu_plugin_tb_n_insns(tb);
	qemu_plugin_register_vcpu_tb_exec_cond_cb(tb, on_block, NO_REGISTERS, COND_NE, counting, 0, block);
	for (i = 0; i < (size_t)block->length; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint32_t word = 0;

		qemu_plugin_insn_data(insn, &word, sizeof(word));
		if (word == SC_1 || word == __builtin_bswap32(SC_1))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_hcall, READS_REGISTERS, NULL);
		for (unsigned int what = MARK_FIRST; what <= MARK_WRITE; what++) {
			struct mark *mark;

			if (word != MARK_WORD(what))
				continue;
			mark = must_have(calloc(1, sizeof(*mark)));
			*mark = (struct mark){ .block = block, .what = what, .rest = block->length - i - 1 };
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, NO_REGISTERS, mark);
		}
	}
}

static void on_cpu(unsigned int vcpu, void *data)
{
	struct array *all = qemu_plugin_get_registers();
	struct qemu_plugin_reg_descriptor *registers = (void *)all->data;

	(void)vcpu;
	(void)data;
	for (unsigned int i = 0; i < all->length; i++) {
		if (!strcmp(registers[i].name, "r3"))
			r3 = registers[i].handle;
		if (!strcmp(registers[i].name, "r4"))
			r4 = registers[i].handle;
	}
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	(void)info;
	if (argc != 1 || strncmp(argv[0], "out=", 4))
		return -1;
	out = fopen(argv[0] + 4, "w");
	if (!out)
		return -1;
	bytes = g_byte_array_new();
	counting = (struct qemu_plugin_u64){ qemu_plugin_scoreboard_new(sizeof(uint64_t)), 0 };
	qemu_plugin_register_vcpu_init_cb(id, on_cpu, NULL);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation, NULL);
	return 0;
}
