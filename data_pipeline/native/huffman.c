/* dladdr */
#define _GNU_SOURCE

#include "huffman.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define LOOKAHEAD_BITS 11
#define NUM_ENTRIES (1 << LOOKAHEAD_BITS)
#define MIN_REFILLED 56
#define ENTRIES_PER_REFILL (MIN_REFILLED / LOOKAHEAD_BITS)
#define END_OF_BLOCK 64
/* More zeros than one MCU can read past the end of the data before decode_mcu notices the end. */
#define PADDING_BYTES (D_MAX_BLOCKS_IN_MCU * DCTSIZE2 * 4 + 16)

/* The code at the start of the next LOOKAHEAD_BITS bits, packed so that a look-up is one load: the
 * length in the low byte, then the skip, then the value, 16 bits. length > 0: a code with its value,
 * `length` bits in all, for the coefficient `skip` positions ahead. length == 0: `skip` is the length
 * of the code whose symbol is `value`, or 0 if the code is longer than the look-ahead. */
typedef uint32_t Entry;

static Entry make_entry(int32_t value, int32_t skip, int32_t length) {
    return (uint32_t)value << 16 | (uint32_t)skip << 8 | (uint32_t)length;
}

static int32_t value_of(Entry entry) { return (int32_t)entry >> 16; }
static int32_t skip_of(Entry entry) { return entry >> 8 & 255; }
static int32_t length_of(Entry entry) { return entry & 255; }

typedef struct {
    Entry entries[NUM_ENTRIES];
    /* Of each code length: the first code that is too large, left-aligned to 16 bits, and what to
     * add to a code to find its symbol. */
    uint32_t limits[18];
    int32_t offsets[17];
    const UINT8 *symbols;
} Table;

/* Bits yet to be decoded, left-aligned; `count` of them are valid. */
typedef struct {
    uint64_t bits;
    int32_t count;
    const uint8_t *next;
} Reader;

struct FastHuffman {
    Table dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    uint32_t last_dc[MAX_COMPS_IN_SCAN];
    Reader reader;
    const uint8_t *end; /* of the data, before the padding */
    uint8_t *data;      /* the scan without its stuffed zeros */
    void (*on_anomaly)(j_common_ptr);
};

/* The head of libjpeg's private structure, the same since its version 6b. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW *blocks);
};

static const uint8_t NATURAL_ORDER[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* The value that `size` bits stand for: T.81, figure F.12. */
static int32_t extend(int32_t bits, int32_t size) {
    return size && bits < 1 << (size - 1) ? bits - (1 << size) + 1 : bits;
}

static void fill_entries(Table *table, uint32_t code, int32_t code_length, uint8_t symbol) {
    int32_t size = symbol & 15, run = symbol >> 4, length = code_length + size;
    int32_t num_free = LOOKAHEAD_BITS - code_length;
    Entry *first = table->entries + (code << num_free);
    int32_t skip = size == 0 && run != 15 ? END_OF_BLOCK : run;
    for (int32_t i = 0; i < 1 << num_free; i++) {
        if (length <= LOOKAHEAD_BITS) {
            first[i] = make_entry(extend(i >> (LOOKAHEAD_BITS - length), size), skip, length);
        } else {
            first[i] = make_entry(symbol, code_length, 0);
        }
    }
}

/* Codes of rising length and value, T.81 annex C; libjpeg has checked that they fit. */
static void make_table(Table *table, const JHUFF_TBL *source) {
    uint32_t code = 0;
    int32_t position = 0;
    memset(table->entries, 0, sizeof table->entries);
    table->symbols = source->huffval;
    for (int32_t length = 1; length <= 16; length++, code <<= 1) {
        table->offsets[length] = position - (int32_t)code;
        for (int32_t i = 0; i < source->bits[length]; i++, code++, position++) {
            if (length <= LOOKAHEAD_BITS) {
                fill_entries(table, code, length, source->huffval[position]);
            }
        }
        table->limits[length] = code << (16 - length);
    }
    table->limits[17] = UINT32_MAX;
}

/* Afterwards at least MIN_REFILLED bits are valid. */
static void refill(Reader *reader) {
    uint64_t word;
    memcpy(&word, reader->next, sizeof word);
    reader->bits |= __builtin_bswap64(word) >> reader->count;
    reader->next += (63 - reader->count) >> 3;
    reader->count |= 56;
}

static uint32_t peek(const Reader *reader, int32_t num_bits) {
    return (uint32_t)(reader->bits >> (64 - num_bits));
}

static void skip_bits(Reader *reader, int32_t num_bits) {
    reader->bits <<= num_bits;
    reader->count -= num_bits;
}

/* A code, or a code and its value, that do not fit the look-ahead; 0 if there is no such code. */
static Entry decode_slowly(const Table *table, Reader *reader, Entry entry) {
    refill(reader);
    int32_t length = skip_of(entry), symbol = value_of(entry);
    if (length == 0) {
        uint32_t code = peek(reader, 16);
        for (length = LOOKAHEAD_BITS + 1; code >= table->limits[length]; length++) {
        }
        if (length > 16) return 0;
        symbol = table->symbols[(int32_t)(code >> (16 - length)) + table->offsets[length]];
    }
    skip_bits(reader, length);
    int32_t size = symbol & 15, run = symbol >> 4, value = 0;
    if (size) {
        value = extend((int32_t)peek(reader, size), size);
        skip_bits(reader, size);
    }
    refill(reader);
    return make_entry(value, size == 0 && run != 15 ? END_OF_BLOCK : run, 1);
}

/* Uses up to LOOKAHEAD_BITS bits, or refills. */
static inline Entry decode_entry(const Table *table, Reader *reader) {
    Entry entry = table->entries[peek(reader, LOOKAHEAD_BITS)];
    if (__builtin_expect(length_of(entry) == 0, 0)) {
        /* On a copy, so that the reader itself can stay in registers. */
        Reader copy = *reader;
        entry = decode_slowly(table, &copy, entry);
        *reader = copy;
        return entry;
    }
    reader->bits <<= entry & 63;
    reader->count -= length_of(entry);
    return entry;
}

/* False if the data is damaged. `block` must be zero, or NULL to discard the coefficients. */
static inline int decode_block(Reader *reader, const Table *dc, const Table *ac, uint32_t *last_dc,
                               JCOEF *block) {
    refill(reader);
    Entry entry = decode_entry(dc, reader);
    if (!entry) return 0;
    /* Damaged data may add up to any number: unsigned, so that it wraps. */
    *last_dc += (uint32_t)value_of(entry);
    if (block) block[0] = (JCOEF)*last_dc;
    for (int32_t k = 1;;) {
        refill(reader);
        for (int32_t i = 0; i < ENTRIES_PER_REFILL; i++, k++) {
            entry = decode_entry(ac, reader);
            k += skip_of(entry);
            if (k >= DCTSIZE2) return skip_of(entry) == END_OF_BLOCK;
            if (!entry) return 0;
            if (block) block[NATURAL_ORDER[k]] = (JCOEF)value_of(entry);
            if (k == DCTSIZE2 - 1) return 1;
        }
    }
}

/* Variable shifts take half the time with BMI2; the result is the same. */
__attribute__((target_clones("default", "bmi2")))
static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW *blocks) {
    FastHuffman *state = info->client_data;
    Reader reader = state->reader;
    int is_intact = 1;
    for (int i = 0; i < info->blocks_in_MCU; i++) {
        int component = info->MCU_membership[i];
        const jpeg_component_info *of = info->cur_comp_info[component];
        is_intact &= decode_block(&reader, state->dc + of->dc_tbl_no, state->ac + of->ac_tbl_no,
                                  state->last_dc + component, blocks ? blocks[i][0] : NULL);
    }
    state->reader = reader;
    if (!is_intact || reader.next - reader.count / 8 > state->end) {
        state->on_anomaly((j_common_ptr)info);
    }
    return TRUE;
}

/* The marker at the end of the scan, NULL if it is missing, or if bytes of 0xFF that fill the space
 * before a marker are before a zero: libjpeg then goes on with the scan. */
static const uint8_t *closing_marker(const uint8_t *from, size_t num_bytes) {
    const uint8_t *stop = from + num_bytes;
    while ((from = memchr(from, 0xFF, (size_t)(stop - from))) && from + 1 < stop) {
        if (from[1] == 0) {
            from += 2;
            continue;
        }
        const uint8_t *code = from + 1;
        while (code < stop && *code == 0xFF) code++;
        return code < stop && *code != 0 ? from : NULL;
    }
    return NULL;
}

/* Copies the scan up to its closing marker, without the zeros that follow its 0xFF bytes. */
static int copy_scan(FastHuffman *state, const uint8_t *from, size_t num_bytes) {
    const uint8_t *stop = closing_marker(from, num_bytes);
    uint8_t *to = state->data = malloc((size_t)(stop - from) + PADDING_BYTES);
    if (!to) return 0;
    while (from < stop) {
        const uint8_t *mark = memchr(from, 0xFF, (size_t)(stop - from));
        size_t count = (size_t)((mark ? mark + 1 : stop) - from);
        memcpy(to, from, count);
        to += count;
        from += count + 1;
    }
    memset(to, 0, PADDING_BYTES);
    state->reader.next = state->data;
    state->end = to;
    return 1;
}

int fast_huffman_applies(j_decompress_ptr info) {
    return !info->progressive_mode && !info->arith_code && info->restart_interval == 0 &&
           info->comps_in_scan == info->num_components && info->data_precision == 8 &&
           closing_marker(info->src->next_input_byte, info->src->bytes_in_buffer);
}

/* Where the library that has this function is loaded; NULL if no library has it. */
static const void *library_of(const void *function) {
    Dl_info found;
    return dladdr(function, &found) ? found.dli_fbase : NULL;
}

int fast_huffman_knows_layout(j_decompress_ptr info) {
    const void *libjpeg = library_of((const void *)(uintptr_t)jpeg_start_decompress);
    const struct jpeg_entropy_decoder *entropy = info->entropy;
    return libjpeg && library_of((const void *)(uintptr_t)entropy->start_pass) == libjpeg &&
           library_of((const void *)(uintptr_t)entropy->decode_mcu) == libjpeg;
}

FastHuffman *fast_huffman_install(j_decompress_ptr info, void (*on_anomaly)(j_common_ptr)) {
    if (!fast_huffman_applies(info)) return NULL;
    FastHuffman *state = calloc(1, sizeof *state);
    if (!state || !copy_scan(state, info->src->next_input_byte, info->src->bytes_in_buffer)) {
        fast_huffman_free(state);
        return NULL;
    }
    for (int i = 0; i < info->comps_in_scan; i++) {
        int dc = info->cur_comp_info[i]->dc_tbl_no, ac = info->cur_comp_info[i]->ac_tbl_no;
        if (!state->dc[dc].symbols) make_table(state->dc + dc, info->dc_huff_tbl_ptrs[dc]);
        if (!state->ac[ac].symbols) make_table(state->ac + ac, info->ac_huff_tbl_ptrs[ac]);
    }
    state->on_anomaly = on_anomaly;
    info->client_data = state;
    info->entropy->decode_mcu = decode_mcu;
    return state;
}

void fast_huffman_free(FastHuffman *state) {
    if (!state) return;
    free(state->data);
    free(state);
}
