/* test_import_ids.c - which chain and which problem a line is of, and what it
 * is judged by. */
#include "import_lines.h"

TestSuite(import_ids, .init = make_folder, .fini = drop_folder);

Test(import_ids, ids) {
    imported in =
        good(O(",\"id\":\"a\"") O(",\"id\":\"a\"") O(",\"id\":\"b/7\"")
                 O(",\"id\":\"c\",\"problem\":\"a\"") O(",\"problem\":\"a\"")
                     O(",\"id\":12") "{\"prompt\":\"P\",\"text\":\"u\"}\n"
                                     "{\"prompt\":\"other\",\"text\":\"t\"}\n"
                                     "{\"prompt\":\"other\",\"text\":\"t\"}\n",
             (ks_import_options){0}, KS_TEMPLATE_AUTO);
    static const char *const expected[][2] = {
        {"\"a/0\"", "\"a\""},       {"\"a/1\"", "\"a\""},
        {"\"b/7\"", "\"b\""},       {"\"c\"", "\"a\""},
        {"\"a/3\"", "\"a\""},       {"\"12/0\"", "\"12\""},
        {"\"a/4\"", "\"a\""}, /* the same prompt as the first */
        {"\"in/8/0\"", "\"in/8\""}, {"\"in/8/1\"", "\"in/8\""}};
    for (size_t i = 0; i < KS_COUNT(expected); i++) {
        expect(in.chains, i, "id", expected[i][0]);
        expect(in.chains, i, "problem", expected[i][1]);
    }
    cr_expect(in.all.twins == 2, "%zu", in.all.twins); /* of b and 12 */
    drop(&in);
    in = good("{\"n\":\"b/7\",\"problem\":\"What?\",\"text\":\"t\","
              "\"solution\":\"9\"}\n",
              (ks_import_options){.id_field = "n",
                                  .question_field = "problem",
                                  .answer_field = "solution",
                                  .whole_ids = true},
              KS_TEMPLATE_AUTO);
    expect(in.chains, 0, "id", "\"b/7/0\"");
    expect(in.chains, 0, "problem", "\"b/7\"");
    expect(in.chains, 0, "question", "\"What?\"");
    expect(in.chains, 0, "gold", "\"9\"");
    expect(in.chains, 0, "correct", "false");
    drop(&in);
}

/* A number that another chain's id has is passed over. */
Test(import_ids, numbers_that_are_free) {
    imported in =
        good(O(",\"id\":\"a/1\"") O(",\"id\":\"a/2\"") O(",\"id\":\"a\"")
                 O(",\"id\":\"a\"") O(",\"id\":\"b/0\"") O(",\"id\":\"b\""),
             (ks_import_options){0}, KS_TEMPLATE_AUTO);
    static const char *const ids[] = {"\"a/1\"", "\"a/2\"", "\"a/3\"",
                                      "\"a/4\"", "\"b/0\"", "\"b/1\""};
    for (size_t i = 0; i < KS_COUNT(ids); i++)
        expect(in.chains, i, "id", ids[i]);
    drop(&in);
}

/* Prompts are made of the questions of --problems too. */
Test(import_ids, problems_ask) {
    ks_problems problems;
    write_lines("p.jsonl",
                "{\"id\":\"p1\",\"question\":\"3 + 4?\",\"answer\":\"7\"}\n");
    cr_assert(ks_problems_read(&problems, path_of("p.jsonl"), KS_KEEP_FIELDS,
                               NULL) == KS_OK);
    imported in = good(
        "{\"id\":\"p1\",\"completion\":\"It is 7.\"}\n"
        "{\"id\":\"p1/4\",\"completion\":\"It is 8.\"}\n"
        "{\"id\":\"x\",\"problem\":\"p1\",\"output\":\"7\"}\n"
        "{\"id\":\"p1\",\"question\":\"Mine?\",\"output\":\"7\"}\n"
        "{\"problem\":\"p1\",\"answer\":\"So.\\n#### 7\"}\n",
        (ks_import_options){.problems = &problems, .skipped = count_skipped},
        KS_TEMPLATE_AUTO);
    static const char *const ids[] = {"\"p1/0\"", "\"p1/4\"", "\"x\"",
                                      "\"p1/3\""};
    cr_assert_eq(in.all.n, 4);
    cr_expect_eq(in.all.skipped, 1, "it asks something else");
    for (size_t i = 0; i < KS_COUNT(ids); i++) {
        expect(in.chains, i, "id", ids[i]);
        expect(in.chains, i, "prompt", "\"3 + 4?\\n\"");
        expect(in.chains, i, "question", "\"3 + 4?\"");
        expect(in.chains, i, "correct", i == 1 ? "false" : "true");
    }
    drop(&in);
    ks_problems_free(&problems);
}

Test(import_ids, problems_fill_what_is_missing) {
    ks_problems problems;
    write_lines("p.jsonl", "{\"id\":\"a\",\"question\":\"Q\",\"answer\":\"7\"}"
                           "\n{\"id\":\"b\",\"question\":\"R\"}\n");
    cr_assert(ks_problems_read(&problems, path_of("p.jsonl"), KS_KEEP_FIELDS,
                               NULL) == KS_OK);
    imported in =
        good("{\"id\":\"a\",\"prompt\":\"P\",\"text\":\"is 7\"}\n"
             "{\"id\":\"a\",\"prompt\":\"P\",\"text\":\"is 8\"}\n"
             "{\"id\":\"b\",\"prompt\":\"P\",\"text\":\"7\"}\n"
             "{\"id\":\"c\",\"prompt\":\"P\",\"text\":\"7\"}\n",
             (ks_import_options){.problems = &problems}, KS_TEMPLATE_AUTO);
    expect(in.chains, 0, "correct", "true");
    expect(in.chains, 1, "correct", "false");
    expect(in.chains, 2, "correct", "null");
    expect(in.chains, 2, "question", "\"R\"");
    expect(in.chains, 3, "question", "(absent)");
    cr_expect(json_array_size(in.problems) == 2 && in.all.n_problems == 2);
    expect(in.problems, 0, "answer", "\"7\"");
    drop(&in);
    ks_problems_free(&problems);
}

/* Chains of our own come through as they are, judged or not. */
Test(import_ids, own_chains_keep_their_judgement) {
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < 3; i++) {
        char line[256];
        snprintf(line, sizeof line,
                 "{\"id\":\"p/0\",\"problem\":\"p\",\"prompt\":\"Q\",\"text\":"
                 "\"So 5.\",\"rest\":\"\",\"answer\":\"5\",\"correct\":%s}\n",
                 words[i]);
        imported in = good(line, (ks_import_options){0}, KS_TEMPLATE_AUTO);
        expect(in.chains, 0, "correct", words[i]);
        expect(in.chains, 0, "answer", "\"5\"");
        cr_expect_eq(in.all.judged, i < 2);
        drop(&in);
    }
    imported in = good("{\"prompt\":\"Q\",\"text\":\"So 5.\",\"gold\":\"6\","
                       "\"correct\":true}\n",
                       (ks_import_options){0}, KS_TEMPLATE_AUTO);
    expect(in.chains, 0, "correct", "false"); /* the right answer decides */
    drop(&in);
}
